"""Kept credentials: one mint for any number of readers, successors in time, no storm after a refusal."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc
import pytest

import stepcred
from stepcred._flights import Flights
from tests.fakes.broker_server import DENIED, STEP_ENDED, FakeBroker, Refusal
from tests.unit.client.test_lease_blocks import eventually


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
    fake.ttl, fake.heartbeat, fake.clock_ahead = timedelta(seconds=2.5), 0.05, timedelta(hours=5)
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        first = step.credential("orders-read")
        assert fake.wait_for(lambda: issued(fake) >= 3)
        assert step.credential("orders-read") is not first
    asked = [request.replaces for request in fake.requests("IssueCredential")]
    assert asked[:3] == ["", "lease-1", "lease-2"]
    assert {"lease-1", "lease-2"} <= fake.only_step().claimed


async def test_the_same_in_asyncio(fake: FakeBroker) -> None:
    fake.ttl, fake.heartbeat = timedelta(seconds=2.5), 0.05
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


def test_what_a_heartbeat_says_has_ended_is_minted_anew(fake: FakeBroker) -> None:
    fake.heartbeat = 0.05
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        first = step.credential("orders-read")
        assert fake.wait_for(lambda: bool(fake.only_step().claimed))
        fake.only_step().leases.clear()
        assert eventually(lambda: step.credential("orders-read") is not first)
        assert [request.replaces for request in fake.requests("IssueCredential")] == ["", ""]


def test_a_successor_that_was_asked_for_by_hand_is_the_one_that_is_kept(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        newer = step.issue("orders-read", replaces=step.credential("orders-read"))
        assert step.credential("orders-read") is newer


def test_one_thread_for_all_scopes_from_the_first_on_and_none_after_the_end(fake: FakeBroker) -> None:
    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "stepcred-successors"]

    with stepcred.connect() as broker, broker.step(scopes=["orders-read", "lake-write"]) as step:
        step.issue("orders-read")
        assert threads() == []
        step.credential("orders-read")
        step.credential("lake-write")
        assert len(threads()) == 1
    assert eventually(lambda: not threads())
    with pytest.raises(stepcred.StepEnded):
        step.credential("orders-read")


def test_a_mutant_without_single_flight_is_seen(fake: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flights, "join", lambda self, key, *, known, get, timeout: known() or get())
    with pytest.raises(AssertionError):
        test_any_number_of_threads_one_mint(fake)


def test_whoever_waits_for_another_waits_no_longer_than_told(fake: FakeBroker) -> None:
    fake.delay["IssueCredential"] = 1.0
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(step.credential, "orders-read")
        assert fake.wait_for(lambda: issued(fake) == 1)
        with pytest.raises(stepcred.DeadlineExceeded):
            step.credential("orders-read", timeout=0.1)
        assert slow.result() is step.credential("orders-read")


def test_a_thread_that_is_interrupted_leaves_the_asking_to_another() -> None:
    flights, entered, leave = Flights[int](), threading.Event(), threading.Event()

    def interrupted() -> int:
        entered.set()
        leave.wait(10)
        raise KeyboardInterrupt

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(flights.join, "a", known=lambda: None, get=interrupted, timeout=10)
        entered.wait(10)
        second = pool.submit(flights.join, "a", known=lambda: None, get=lambda: 7, timeout=10)
        time.sleep(0.05)
        leave.set()
        assert second.result() == 7
        with pytest.raises(KeyboardInterrupt):
            first.result()


async def test_a_cancelled_reader_does_not_cancel_the_others(fake: FakeBroker) -> None:
    fake.delay["IssueCredential"] = 0.3
    async with stepcred.aio.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        first = asyncio.create_task(step.credential("orders-read"))
        second = asyncio.create_task(step.credential("orders-read"))
        await asyncio.sleep(0.1)
        first.cancel()
        assert (await second).lease.lease_id == "lease-1"
        with pytest.raises(asyncio.CancelledError):
            await first
        assert issued(fake) == 1


async def test_readers_of_all_are_told_why_it_can_be_kept_no_longer(fake: FakeBroker) -> None:
    fake.ttl, fake.heartbeat = timedelta(seconds=1.5), 0.05
    exhausted = Refusal(code=grpc.StatusCode.FAILED_PRECONDITION, reason="SUCCESSORS_EXHAUSTED")
    async with stepcred.aio.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        await step.credential("orders-read")
        fake.script("IssueCredential", exhausted)
        with pytest.raises(stepcred.Refused, match="SUCCESSORS_EXHAUSTED"):
            assert await _all(step, "orders-read") is None
        fake.ttl = timedelta(minutes=10)
        rest = asyncio.create_task(_all(step, "orders-read"))  # a new one
        assert await asyncio.to_thread(fake.wait_for, lambda: "lease-2" in fake.only_step().claimed)
        fake.only_step().leases.pop("lease-2")  # an operator's doing
        with pytest.raises(stepcred.Refused, match="LEASE_ENDED"):
            await asyncio.wait_for(rest, 5)


async def test_readers_of_all_end_when_the_broker_ends_the_step(fake: FakeBroker) -> None:
    fake.heartbeat = 0.05
    async with stepcred.aio.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        rest = asyncio.create_task(_all(step, "orders-read"))
        assert await asyncio.to_thread(fake.wait_for, lambda: bool(fake.only_step().claimed))
        fake.script("Heartbeat", STEP_ENDED)
        assert await asyncio.wait_for(rest, 5) == ["lease-1"]


async def _all(step: stepcred.aio.Step, scope: str) -> list[str]:
    return [credential.lease.lease_id async for credential in step.credentials(scope)]
