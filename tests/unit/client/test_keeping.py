"""Kept credentials: one mint for any number of readers, successors in time, no storm after a refusal."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc
import pytest

import stepcred
from tests.fakes.broker_server import DENIED, FakeBroker, Refusal


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str]) -> None:
    """Every test here has the broker's settings."""


def issued(fake: FakeBroker) -> int:
    return len(fake.requests("IssueCredential"))


def test_any_number_of_threads_one_mint(fake: FakeBroker) -> None:
    fake.delay["IssueCredential"] = 0.2
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step, ThreadPoolExecutor(16) as pool:
        start = threading.Barrier(16)

        def read() -> stepcred.Credential:
            start.wait()
            return step.credential("orders-read")

        found = [future.result() for future in [pool.submit(read) for _ in range(16)]]
        assert len({id(credential) for credential in found}) == 1
        assert step.credential("orders-read") is found[0]
        assert issued(fake) == 1


def test_a_refusal_is_one_answer_for_all_who_wait(fake: FakeBroker) -> None:
    fake.delay["IssueCredential"] = 0.2
    fake.script("IssueCredential", Refusal(code=grpc.StatusCode.FAILED_PRECONDITION, reason="FROZEN"))
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step, ThreadPoolExecutor(16) as pool:
        start = threading.Barrier(16)

        def read() -> BaseException | None:
            start.wait()
            try:
                step.credential("orders-read")
            except stepcred.Refused as refused:
                return refused
            return None

        found = [future.result() for future in [pool.submit(read) for _ in range(16)]]
        assert len({id(one) for one in found}) == 16
        assert issued(fake) == 1


def test_a_storm_of_readers_after_a_refusal_asks_nothing(fake: FakeBroker) -> None:
    fake.script("IssueCredential", DENIED)
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        for _ in range(50):
            with pytest.raises(stepcred.AccessDenied):
                step.credential("orders-read")
        assert issued(fake) == 1


def test_successors_come_in_the_background(fake: FakeBroker) -> None:
    fake.ttl, fake.heartbeat, fake.clock_ahead = timedelta(seconds=1), 0.05, timedelta(hours=5)
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        first = step.credential("orders-read")
        assert fake.wait_for(lambda: issued(fake) >= 3)
        assert step.credential("orders-read") is not first
    asked = [request.replaces for request in fake.requests("IssueCredential")]
    assert asked[:3] == ["", "lease-1", "lease-2"]
    assert {"lease-1", "lease-2"} <= fake.only_step().claimed


async def test_the_same_in_asyncio(fake: FakeBroker) -> None:
    fake.ttl, fake.heartbeat = timedelta(seconds=1), 0.05
    fake.delay["IssueCredential"] = 0.05
    async with stepcred.aio.connect() as broker:
        async with broker.step(scopes=["orders-read"]) as step:
            found = await asyncio.gather(*[step.credential("orders-read") for _ in range(16)])
            assert len({id(credential) for credential in found}) == 1
            assert issued(fake) == 1
            seen = []
            async for credential in step.credentials("orders-read"):
                seen.append(credential.lease.lease_id)
                if len(seen) == 3:
                    break
            assert seen == ["lease-1", "lease-2", "lease-3"]
            rest = asyncio.create_task(_all(step, "orders-read"))
            await asyncio.sleep(0.1)
        assert (await asyncio.wait_for(rest, 5))[0] in {"lease-3", "lease-4"}


async def _all(step: stepcred.aio.Step, scope: str) -> list[str]:
    return [credential.lease.lease_id async for credential in step.credentials(scope)]
