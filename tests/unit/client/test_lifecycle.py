"""Steps and connections that are used out of order: twice, after their end, in a forked child, by whoever was cancelled."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import pytest

import stepcred
from stepcred import _aio_step, _threads
from tests.fakes.broker_server import UNAVAILABLE, FakeBroker

SCOPE = "orders-read"


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str]) -> None:
    """Every test here has the broker's settings."""


def in_a_child(work: Callable[[], object]) -> str:
    """What it returned or raised in a forked process."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            told = str(work())
        except BaseException as error:  # noqa: BLE001 - told to the parent
            told = f"{type(error).__name__}: {error}"
        os.write(write, told.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    return told


def test_a_forked_child_that_leaves_the_block_does_not_end_its_parents_step(fake: FakeBroker) -> None:
    broker = stepcred.connect()
    with broker, broker.step(scopes=[SCOPE]) as step, step.lease(SCOPE) as held:

        def leave() -> object:
            with pytest.raises(stepcred.StepcredError, match="process that opened it"):
                step.credential(SCOPE)
            with pytest.raises(stepcred.StepcredError, match="process that made it"):
                step.issue(SCOPE)
            step.__exit__(None, None, None)
            broker.__exit__(None, None, None)
            return "left"

        assert in_a_child(leave) == "left"
        assert not fake.only_step().ended
        assert step.issue(SCOPE).lease.lease_id != held.lease.lease_id, "the parent's connection is of no use any more"
    assert fake.only_step().ended
    assert [one.revocability for one in step.outcomes]


def test_a_child_does_not_wait_for_a_lock_of_its_parents_threads(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        with step._core.keeping._lock, broker._lanes._lock:
            told = in_a_child(lambda: step.credential(SCOPE))
            also = in_a_child(broker.whoami)
        assert "process that opened it" in told
        assert "process that made it" in also


def test_a_step_is_entered_once(fake: FakeBroker) -> None:
    with stepcred.connect() as broker:
        step = broker.step(scopes=[SCOPE])
        with step, pytest.raises(stepcred.StepcredError, match="entered already"), step:
            pass
        with pytest.raises(stepcred.StepcredError, match="entered already"), step:
            pass
    assert [one.ended for one in fake.steps.values()] == [True]


async def test_the_same_in_asyncio(fake: FakeBroker) -> None:
    async with stepcred.aio.connect() as broker:
        step = broker.step(scopes=[SCOPE])
        async with step:
            with pytest.raises(stepcred.StepcredError, match="entered already"):
                await step.__aenter__()
        with pytest.raises(stepcred.StepcredError, match="entered already"):
            await step.__aenter__()
    assert [one.ended for one in fake.steps.values()] == [True]


def test_a_step_that_gets_no_thread_is_ended(fake: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    with stepcred.connect() as broker:
        step = broker.step(scopes=[SCOPE])
        monkeypatch.setattr(_threads, "run", run)
        with pytest.raises(RuntimeError, match="new thread"), step:
            pass
    assert fake.only_step().ended


def test_a_connection_closed_before_its_step_is_said_as_one_of_our_errors(fake: FakeBroker) -> None:
    broker = stepcred.connect()
    step = broker.step(scopes=[SCOPE]).__enter__()
    broker.close()
    with pytest.raises(stepcred.StepcredError, match="is closed"):
        step.credential(SCOPE)
    with pytest.raises(stepcred.StepcredError, match="is closed"):
        step.__exit__(None, None, None)
    deadline = time.monotonic() + 10
    while any(thread.name == "stepcred-heartbeat" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(stepcred.StepcredError, match="is closed"):
        broker.whoami()


def test_so_is_one_closed_under_a_call(fake: FakeBroker) -> None:
    fake.delay["WhoAmI"] = 1.0
    broker, found = stepcred.connect(), []

    def ask() -> None:
        try:
            broker.whoami()
        except stepcred.StepcredError as error:
            found.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    assert fake.wait_for(lambda: bool(fake.requests("WhoAmI")))
    broker.close()
    thread.join(10)
    assert found == ["the connection to the broker is closed"]


async def test_closed_connections_in_asyncio_cancel_nobody(fake: FakeBroker) -> None:
    fake.delay["IssueCredential"] = 1.0
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with stepcred.aio.connect() as broker:
        step = await broker.step(scopes=[SCOPE]).__aenter__()
        asking = [asyncio.create_task(step.issue(SCOPE)), asyncio.create_task(step.credential(SCOPE))]
        assert await asyncio.to_thread(fake.wait_for, lambda: len(fake.requests("IssueCredential")) == 2)
        await broker.close()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert [str(one) for one in found] == ["the connection to the broker is closed"] * 2
        step._wake.set()
        await asyncio.wait([step._beats], timeout=10)
        assert step._beats.exception() is None
        with pytest.raises(stepcred.StepcredError, match="is closed"):
            await step.__aexit__(None, None, None)
    assert not complaints


@pytest.mark.parametrize("wait", [float("nan"), float("inf"), -1, None, "5", timedelta(days=-1)])
def test_what_is_no_time_is_refused_before_the_step_not_at_its_end(fake: FakeBroker, wait: Any) -> None:
    with stepcred.connect() as broker:
        with pytest.raises(ValueError, match="wait must be seconds or a timedelta"):
            broker.step(scopes=[SCOPE], wait=wait)
        with broker.step(scopes=[SCOPE], wait=timedelta(seconds=2)) as step:
            with pytest.raises(ValueError, match="wait must be"), step.lease(SCOPE, wait=wait):
                raise AssertionError
            with pytest.raises(ValueError, match="wait must be"):
                step.revoke("lease-1", wait=wait)
    assert not fake.requests("IssueCredential")
    assert [request.wait.seconds for request in fake.requests("EndStep")] == [2]


def test_a_name_that_is_no_text_is_named() -> None:
    with stepcred.connect() as broker:
        with pytest.raises(stepcred.SettingsError, match="run must be a string, not 42"):
            broker.step(run=42, scopes=[SCOPE])  # type: ignore[arg-type]
        for scopes, told in (([1], "1 is none"), (b"ab", "97 is none")):
            with pytest.raises(TypeError, match=told):
                broker.step(scopes=scopes)  # type: ignore[arg-type]


async def test_a_step_whose_opening_is_cancelled_is_ended(fake: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stepcred.aio.connect() as broker:

        async def cancelled_after(delay: float) -> None:
            fake.delay["BeginStep"], begun = delay, len(fake.requests("BeginStep"))
            opening = asyncio.create_task(broker.step(scopes=[SCOPE]).__aenter__())
            assert await asyncio.to_thread(fake.wait_for, lambda: len(fake.requests("BeginStep")) > begun)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening

        await cancelled_after(0.2)
        assert fake.only_step().ended
        monkeypatch.setattr(_aio_step, "BEGIN_GRACE", 0.05)  # no answer: nobody waits for ever
        await cancelled_after(1.0)
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) == 1


async def test_an_end_that_nobody_waits_for_any_more_arrives_before_the_connection_closes(fake: FakeBroker) -> None:
    fake.script("EndStep", UNAVAILABLE)  # it is asked again in a moment

    async def work() -> None:
        async with stepcred.aio.connect() as broker, broker.step(scopes=[SCOPE]):
            pass

    task = asyncio.create_task(work())
    assert await asyncio.to_thread(fake.wait_for, lambda: bool(fake.requests("EndStep")))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fake.only_step().ended


async def test_what_is_used_without_its_block_says_so(fake: FakeBroker) -> None:
    with stepcred.connect() as broker:
        for call in (broker.step(scopes=[SCOPE]).credential, broker.join("handle").issue):
            with pytest.raises(stepcred.StepcredError, match=r"not open yet: .* `with` block"):
                call(SCOPE)
    unopened = stepcred.aio.connect()
    with pytest.raises(stepcred.StepcredError, match="`async with`"):
        unopened.step(scopes=[SCOPE])
    await unopened.close()
    assert not fake.calls


async def test_a_cancellation_that_comes_with_the_answer_is_not_lost(fake: FakeBroker) -> None:
    async with stepcred.aio.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        answer: asyncio.Future[stepcred.Credential] = asyncio.get_running_loop().create_future()
        step._flights._flying[SCOPE] = cast("asyncio.Task[stepcred.Credential]", answer)
        readers = [asyncio.create_task(step.credential(SCOPE, timeout=5)), step._beats]
        await asyncio.sleep(0.05)
        answer.set_result(cast("stepcred.Credential", None))
        step._wake.set()
        for _ in range(2):  # in which what was set reaches those who wait
            await asyncio.sleep(0)
            for one in readers:
                one.cancel()
        done, _ = await asyncio.wait(readers, timeout=5)
        assert done == set(readers)
        assert all(one.cancelled() for one in readers)
        del step._flights._flying[SCOPE]


def test_a_thread_hears_that_the_loop_of_its_step_is_gone(fake: FakeBroker) -> None:
    loop = asyncio.new_event_loop()
    step = loop.run_until_complete(_left_open())
    loop.run_until_complete(step._driver._lanes._newest.channel.close())  # type: ignore[union-attr]
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
    with pytest.raises(stepcred.StepEnded):
        step._from_thread(SCOPE)


async def _left_open() -> stepcred.aio.Step:
    broker = await stepcred.aio.connect().__aenter__()
    return await broker.step(scopes=[SCOPE]).__aenter__()
