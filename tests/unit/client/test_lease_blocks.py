"""`with step.lease(…)`: one credential for all who are inside, taken back by the last one out."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

import stepcred
from stepcred._keeping import Keeping, Kept
from tests.fakes.broker_server import DENIED, FakeBroker

SCOPE = "orders-read"


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str]) -> None:
    """Every test here has the broker's settings."""


def eventually(condition: Callable[[], bool], timeout: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def live(fake: FakeBroker) -> list[str]:
    return list(fake.only_step().leases)


def two_users(fake: FakeBroker) -> None:
    """The first one out does not end what the second one has."""
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        inside, leave = threading.Event(), threading.Event()

        def other() -> None:
            with step.lease(SCOPE):
                inside.set()
                leave.wait(10)

        thread = threading.Thread(target=other)
        with step.lease(SCOPE) as outer:
            thread.start()
            inside.wait(10)
            with step.lease(SCOPE) as inner:
                assert inner is outer
            assert live(fake) == ["lease-1"]
        assert live(fake) == ["lease-1"]
        leave.set()
        thread.join(10)
        assert live(fake) == []
        assert len(fake.requests("IssueCredential")) == 1
        with step.lease(SCOPE) as anew:
            assert anew.lease.lease_id != outer.lease.lease_id


def test_the_last_one_out_takes_it_back(fake: FakeBroker) -> None:
    two_users(fake)


def test_a_mutant_that_does_not_count_is_seen(fake: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(self: Keeping, scope: str) -> Kept | None:
        return self._kept.pop(scope, None)

    monkeypatch.setattr(Keeping, "leave", leave)
    with pytest.raises(AssertionError):
        two_users(fake)


def test_whoever_asked_outside_of_a_block_keeps_it(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        kept = step.credential(SCOPE)
        with step.lease(SCOPE) as same:
            assert same is kept
        assert step.credential(SCOPE) is kept
        assert live(fake) == ["lease-1"]


def test_asking_inside_of_a_block_does_not_outlive_it(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        with step.lease(SCOPE) as first, step.lease(SCOPE):
            pass
        with step.lease(SCOPE) as second:
            with step.lease(SCOPE):
                pass
            assert step.credential(SCOPE) is second
        assert first is not second
        assert live(fake) == []


def test_in_another_thread_it_is_not_known_to_be_inside_and_is_kept(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        with step.lease(SCOPE):
            thread = threading.Thread(target=step.credential, args=(SCOPE,))
            thread.start()
            thread.join(10)
        assert live(fake) == ["lease-1"]


def test_a_successor_is_taken_back_with_what_it_succeeds(fake: FakeBroker) -> None:
    fake.ttl, fake.heartbeat = timedelta(seconds=2), 60.0
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        with step.lease(SCOPE):
            assert eventually(lambda: step.credential(SCOPE).lease.lease_id == "lease-2")
            assert live(fake) == ["lease-1", "lease-2"]
        assert live(fake) == []


def test_a_failed_return_is_raised_or_noted(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        fake.script("RevokeLease", DENIED, DENIED)
        with pytest.raises(stepcred.AccessDenied), step.lease(SCOPE):
            pass
        with pytest.raises(RuntimeError, match="body") as caught, step.lease(SCOPE):
            raise RuntimeError("body")
        assert "could not be taken back yet" in caught.value.__notes__[0]


def test_a_refused_lease_leaves_nothing_behind(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        with pytest.raises(stepcred.AccessDenied), step.lease("nope"):
            raise AssertionError
        assert not fake.requests("RevokeLease")


def stress(fake: FakeBroker, seed: int) -> None:
    """Threads enter, nest, leave and ask as they like: whatever is inside of a block is alive."""
    chosen = random.Random(seed)
    plans = [[chosen.choice(["lease", "nested", "ask"]) for _ in range(12)] for _ in range(6)]
    dead: list[str] = []

    def look(credential: stepcred.Credential) -> None:
        if credential.lease.lease_id not in live(fake):
            dead.append(credential.lease.lease_id)

    def work(step: stepcred.Step, plan: list[str]) -> None:
        for what in plan:
            if what == "ask":
                with step.lease(SCOPE):  # a plain `credential` would pin it for all
                    look(step.credential(SCOPE))
                continue
            with step.lease(SCOPE) as credential:
                if what == "nested":
                    with step.lease(SCOPE) as inner:
                        look(inner)
                time.sleep(0.002)
                look(credential)

    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step, ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, step, plan) for plan in plans]:
            done.result()
        assert dead == []
        assert live(fake) == []


@pytest.mark.parametrize("seed", range(3))
def test_whoever_is_inside_has_a_live_one(fake: FakeBroker, seed: int) -> None:
    stress(fake, seed)


def test_a_mutant_that_looks_too_late_is_seen(fake: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Keeping.leave

    def leave(self: Keeping, scope: str) -> Kept | None:
        one = self.of(scope)
        counted(self, scope)
        time.sleep(0.003)
        return one  # whatever others have done since

    monkeypatch.setattr(Keeping, "leave", leave)
    with pytest.raises((AssertionError, stepcred.AccessDenied)):  # the latter: what is given back twice
        stress(fake, 0)


async def test_the_same_in_asyncio(fake: FakeBroker) -> None:
    async with stepcred.aio.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        async with step.lease(SCOPE) as outer:
            leave = asyncio.Event()

            async def other() -> str:
                async with step.lease(SCOPE) as inner:
                    await leave.wait()
                    return inner.lease.lease_id

            task = asyncio.create_task(other())
            await asyncio.sleep(0)
        assert live(fake) == ["lease-1"]
        leave.set()
        assert await task == outer.lease.lease_id
        assert live(fake) == []
        leave.clear()
        task = asyncio.create_task(other())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert live(fake) == []
    assert len(fake.requests("IssueCredential")) == 2


async def test_what_comes_after_its_block_was_cancelled_is_taken_back(fake: FakeBroker) -> None:
    fake.delay["IssueCredential"] = 0.3
    async with stepcred.aio.connect() as broker, broker.step(scopes=[SCOPE]) as step:

        async def use() -> None:
            async with step.lease(SCOPE):
                raise AssertionError

        task = asyncio.create_task(use())
        assert await asyncio.to_thread(fake.wait_for, lambda: bool(fake.requests("IssueCredential")))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(eventually, lambda: bool(fake.requests("RevokeLease")))
        assert await asyncio.to_thread(eventually, lambda: live(fake) == [])
        task = asyncio.create_task(use())  # and not when somebody else has come to want it
        assert await asyncio.to_thread(fake.wait_for, lambda: len(fake.requests("IssueCredential")) == 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await step.credential(SCOPE)).lease.lease_id == "lease-2"
        await asyncio.sleep(0.1)
        assert live(fake) == ["lease-2"]
