"""The asyncio client: the same flows, so only what the shell adds."""

from __future__ import annotations

import asyncio

import grpc
import pytest

import stepcred
from tests.fakes.broker_server import DENIED, STEP_ENDED, UNAVAILABLE, FakeBroker, Refusal


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str]) -> None:
    """Every test here has the broker's settings."""


async def _until(fake: FakeBroker, method: str, count: int) -> bool:
    return await asyncio.to_thread(fake.wait_for, lambda: len(fake.requests(method)) >= count)


async def test_five_lines_get_a_token_and_leave_it_dead(fake: FakeBroker) -> None:
    fake.script("IssueCredential", UNAVAILABLE)
    async with stepcred.aio.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        first = await step.issue("orders-read")
        second = await step.issue("orders-read", replaces=first)
        assert isinstance(second, stepcred.VaultToken)
        assert (await step.revoke(first)).proven
    assert fake.only_step().ended
    assert step.summary() == "1 credential dead, proven in 41 ms"
    assert len({request.request_id for request in fake.requests("IssueCredential")}) == 2


async def test_refusals_are_typed(fake: FakeBroker) -> None:
    async with stepcred.aio.connect() as broker:
        assert (await broker.whoami()).environment == "dev"
        (verdict,) = await broker.check(scopes=["nope"])
        assert not verdict.granted
        async with broker.step(scopes=["orders-read"]) as step:
            with pytest.raises(stepcred.AccessDenied):
                await step.issue("nope")
            fake.delay["IssueCredential"] = 1.0
            with pytest.raises(stepcred.DeadlineExceeded):
                await step.issue("orders-read", timeout=0.1)


async def test_a_failing_end_does_not_mask_the_body(fake: FakeBroker) -> None:
    fake.script("EndStep", DENIED, DENIED)
    async with stepcred.aio.connect() as broker:
        step = broker.step(scopes=[])
        with pytest.raises(RuntimeError, match="body") as caught:
            async with step:
                raise RuntimeError("body")
        assert "could not be ended" in caught.value.__notes__[0]
        with pytest.raises(stepcred.AccessDenied):
            async with broker.step(scopes=[]):
                pass


async def test_cancelling_the_body_ends_the_step(fake: FakeBroker) -> None:
    async def work() -> None:
        async with stepcred.aio.connect() as broker, broker.step(scopes=["orders-read"]) as step:
            await step.issue("orders-read")
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    assert await _until(fake, "Heartbeat", 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fake.only_step().ended


async def test_heartbeats_claim_survive_and_notice(fake: FakeBroker) -> None:
    fake.heartbeat = 0.05
    fake.script("Heartbeat", UNAVAILABLE)
    async with stepcred.aio.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        credential = await step.issue("orders-read")
        assert await _until(fake, "Heartbeat", 3)
        assert credential.lease.lease_id in fake.only_step().claimed
        fake.script("Heartbeat", STEP_ENDED)
        async with asyncio.timeout(10):
            while step.alive:  # noqa: ASYNC110 (there is no event to wait for: that is the point)
                await asyncio.sleep(0.01)
        with pytest.raises(stepcred.StepEnded):
            await step.issue("orders-read")
    assert [task for task in asyncio.all_tasks() if task.get_name() == "stepcred-heartbeat" and not task.done()] == []


async def test_a_second_cancellation_does_not_stop_the_end(fake: FakeBroker) -> None:
    fake.script("EndStep", Refusal(code=grpc.StatusCode.UNAVAILABLE, pushback="500"))
    async with stepcred.aio.connect() as broker:

        async def work() -> None:
            async with broker.step(scopes=[]):
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        assert await _until(fake, "BeginStep", 1)
        await asyncio.sleep(0.2)
        task.cancel()
        assert await _until(fake, "EndStep", 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(fake.wait_for, lambda: fake.only_step().ended)
