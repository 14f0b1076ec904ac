"""Waiting until operators have approved: what is asked meanwhile, and every way in which it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import grpc
import pytest

import stepcred
from stepcred import _refusals
from tests.fakes.broker_server import STEP_ENDED, UNAVAILABLE, FakeBroker, Refusal

SCOPE = "lake-write"


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str], fake: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker's settings; two operators must approve; nobody here has fifteen seconds."""
    monkeypatch.setattr(_refusals, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(_refusals, "LONGEST_PAUSE", 0.1)
    fake.needs[SCOPE] = 2
    fake.heartbeat = 0.05


def on_the_wire(fake: FakeBroker, method: str) -> int:
    return len(fake.requests(method))


class Operators:
    """Say something once the step is waiting, from another thread."""

    def __init__(self, fake: FakeBroker, *words: Callable[[], None]) -> None:
        self._fake, self._words = fake, words
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(timeout=20)

    def _run(self) -> None:
        for word in self._words:
            seen = on_the_wire(self._fake, "CheckAccess")
            if not self._fake.wait_for(lambda seen=seen: on_the_wire(self._fake, "CheckAccess") > seen + 1):  # type: ignore[misc]
                return
            word()


def test_without_patience_it_is_told_what_must_be_approved(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        (verdict,) = step.verdicts
        assert (verdict.access, verdict.approval_id) == (stepcred.Access.NEEDS_APPROVAL, "")
        with pytest.raises(stepcred.NeedsApproval) as caught:
            step.issue(SCOPE)
        needed = caught.value
        (verdict,) = step.check([SCOPE])
    assert str(needed).endswith(f"; approval {needed.approval_id} (0 of 2)")
    assert isinstance(needed, stepcred.AccessDenied)  # as it was before there was anything to wait for
    assert (needed.scope, needed.approvals_needed, needed.approvals_given) == (SCOPE, 2, 0)
    assert needed.approval_expires_at == verdict.approval_expires_at
    assert needed.approval_expires_at is not None
    assert needed.approval_id == verdict.approval_id != ""
    assert (verdict.approvals_needed, verdict.approvals_given) == (2, 0)
    assert on_the_wire(fake, "IssueCredential") == 1


def test_it_is_issued_once_when_enough_have_approved(fake: FakeBroker) -> None:
    told: list[int] = []
    yes = lambda: fake.approve(SCOPE)  # noqa: E731
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        with Operators(fake, yes, yes):
            credential = step.issue(SCOPE, approval_timeout=20, on_waiting=lambda one: told.append(one.approvals_given))
        assert isinstance(credential, stepcred.AwsSession)
        assert on_the_wire(fake, "Heartbeat") > 2  # they went on
    assert told == [0, 1]
    first, second = fake.requests("IssueCredential")
    assert first.request_id != second.request_id
    assert all(request.step_handle for request in fake.requests("CheckAccess"))
    assert step.summary() == "1 credential dead, proven in 41 ms"


def test_a_step_may_have_its_patience_from_the_start(fake: FakeBroker) -> None:
    with (
        stepcred.connect() as broker,
        broker.step(scopes=[SCOPE], approval_timeout=timedelta(seconds=20)) as step,
        Operators(fake, lambda: fake.approve(SCOPE), lambda: fake.approve(SCOPE)),
    ):
        step.issue(SCOPE)
        with pytest.raises(stepcred.NeedsApproval):  # used up; and this time there is none
            step.issue(SCOPE, approval_timeout=0)


def test_a_step_of_a_launcher_can_wait_too(fake: FakeBroker) -> None:
    with stepcred.connect() as broker:
        launched = broker.launch(scopes=[SCOPE], on_behalf_of="spiffe://test.local/workflow/nightly-etl/step/load")
        with (
            broker.join(launched.handle) as step,
            Operators(fake, lambda: fake.approve(SCOPE), lambda: fake.approve(SCOPE)),
        ):
            step.issue(SCOPE, approval_timeout=20)


def test_nobody_comes(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        with pytest.raises(stepcred.NeedsApproval) as caught:
            step.issue(SCOPE, approval_timeout=0.3)
        assert caught.value.approval_id
    assert on_the_wire(fake, "IssueCredential") == 1


def test_a_denial_ends_it_at_once_and_for_good(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        with Operators(fake, lambda: fake.end_approvals(SCOPE)), pytest.raises(stepcred.AccessDenied) as caught:
            step.issue(SCOPE, approval_timeout=60)
        assert (caught.value.reason, caught.value.verdict) == ("APPROVAL_DECIDED", stepcred.Verdict.NEVER)
        assert not isinstance(caught.value, stepcred.NeedsApproval)
        for _ in range(50):
            with pytest.raises(stepcred.AccessDenied):
                step.issue(SCOPE, approval_timeout=60)  # whoever said no is not asked again by a loop
    assert on_the_wire(fake, "IssueCredential") == 1


def test_what_nobody_decided_in_time_may_be_asked_for_again(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:

        def expire() -> None:
            for approval in fake.approvals.values():
                approval.expires_at = datetime.now(UTC) - timedelta(seconds=1)
            assert fake.wait_for(lambda: on_the_wire(fake, "CheckAccess") > 5)
            fake.end_approvals(SCOPE)

        with Operators(fake, expire), pytest.raises(stepcred.NeedsApproval) as caught:
            step.issue(SCOPE, approval_timeout=60)
        assert caught.value.reason == "APPROVAL_EXPIRED"
        with pytest.raises(stepcred.NeedsApproval) as caught:
            step.issue(SCOPE)
        assert caught.value.reason == "NEEDS_APPROVAL"
    assert on_the_wire(fake, "IssueCredential") == 2


def test_what_the_map_refuses_by_now_is_said_at_once(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        with Operators(fake, fake.scopes.clear), pytest.raises(stepcred.AccessDenied) as caught:
            step.issue(SCOPE, approval_timeout=60)
        assert (caught.value.reason, caught.value.reference_id) == ("ACCESS_DENIED", "ref-9")


def test_a_broker_that_restarts_or_pushes_back_is_waited_for(fake: FakeBroker) -> None:
    busy = Refusal(
        code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="RATE_LIMITED", verdict="RETRY_AFTER", retry_after=0.4
    )
    fake.script("CheckAccess", UNAVAILABLE, busy)
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        begun = time.monotonic()
        with Operators(fake, lambda: fake.approve(SCOPE), lambda: fake.approve(SCOPE)):
            step.issue(SCOPE, approval_timeout=20)
        assert time.monotonic() - begun >= 0.4


def test_a_pushback_beyond_the_deadline_is_not_waited_for(fake: FakeBroker) -> None:
    busy = Refusal(
        code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="RATE_LIMITED", verdict="RETRY_AFTER", retry_after=300
    )
    fake.script("CheckAccess", busy)
    with (
        stepcred.connect() as broker,
        broker.step(scopes=[SCOPE]) as step,
        pytest.raises(stepcred.NeedsApproval),
    ):
        step.issue(SCOPE, approval_timeout=60)


def test_the_end_of_the_step_ends_it(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        fake.script("Heartbeat", *[STEP_ENDED] * 2)
        with pytest.raises(stepcred.StepEnded):
            step.issue(SCOPE, approval_timeout=60)


def test_several_are_waited_for_together_and_nothing_is_issued_before_all_are_there(fake: FakeBroker) -> None:
    fake.needs["orders-db"] = 1
    scopes = [SCOPE, "orders-db"]
    with stepcred.connect() as broker, broker.step(scopes=scopes) as step:
        waiting = []
        for scope in scopes:
            with pytest.raises(stepcred.NeedsApproval) as caught:
                step.issue(scope)
            waiting.append(caught.value)
        words = [lambda: fake.approve("orders-db"), *[lambda: fake.approve(SCOPE)] * 2]
        with Operators(fake, *words):
            step.wait_for_approval(waiting, approval_timeout=20)
        assert on_the_wire(fake, "IssueCredential") == 2
        for scope in scopes:
            step.issue(scope)
    assert on_the_wire(fake, "IssueCredential") == 4


def test_ctrl_c_ends_the_wait_and_the_step(fake: FakeBroker) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        stepcred.connect() as broker,
        broker.step(scopes=[SCOPE]) as step,
        Operators(fake, lambda: os.kill(os.getpid(), signal.SIGINT)),
    ):
        step.issue(SCOPE, approval_timeout=600)
    assert fake.only_step().ended
    assert fake.approvals  # it stays open: the step's next attempt can use it


@pytest.mark.parametrize("wrong", [-1, float("inf"), float("nan")])
def test_nobody_waits_for_ever(wrong: float) -> None:
    with stepcred.connect() as broker, pytest.raises(ValueError, match="approval_timeout"):
        broker.step(scopes=[SCOPE], approval_timeout=wrong)


async def test_asyncio_waits_the_same_way(fake: FakeBroker) -> None:
    async with (
        stepcred.aio.connect() as broker,
        broker.step(scopes=[SCOPE], approval_timeout=timedelta(seconds=20)) as step,
    ):
        with Operators(fake, lambda: fake.approve(SCOPE), lambda: fake.approve(SCOPE)):
            await step.issue(SCOPE)
        assert (await step.check([SCOPE]))[0].approvals_needed == 2
        with pytest.raises(stepcred.NeedsApproval) as caught:
            await step.issue(SCOPE, approval_timeout=0)
        with pytest.raises(stepcred.NeedsApproval):
            await step.wait_for_approval([caught.value], approval_timeout=0.2)
    assert on_the_wire(fake, "IssueCredential") == 3


async def test_a_cancelled_task_ends_the_wait_and_the_step(fake: FakeBroker) -> None:
    async def work() -> None:
        async with stepcred.aio.connect() as broker, broker.step(scopes=[SCOPE]) as step:
            await step.issue(SCOPE, approval_timeout=600)

    task = asyncio.create_task(work())
    assert await asyncio.to_thread(fake.wait_for, lambda: on_the_wire(fake, "CheckAccess") > 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    assert fake.only_step().ended
