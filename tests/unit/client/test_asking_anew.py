"""`retry=`: what the provider failed at or what was lost is asked anew, charged, and only so often."""

from __future__ import annotations

import contextlib
import time

import grpc
import pytest

import stepcred
from stepcred import _refusals, _step_core
from tests.fakes.broker_server import FakeBroker, Refusal

SCOPE = "orders-read"
LOST = Refusal(code=grpc.StatusCode.ABORTED, reason="REPLAY_LOST")


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str]) -> None:
    """Every test here has the broker's settings."""


def failed(seconds: float) -> Refusal:
    return Refusal(
        code=grpc.StatusCode.ABORTED,
        reason="PROVIDER_FAILED",
        verdict="RETRY_AFTER",
        retry_after=seconds,
        pushback=str(int(seconds * 1000)),
    )


def ids(fake: FakeBroker) -> list[str]:
    return [request.request_id for request in fake.requests("IssueCredential")]


@pytest.mark.parametrize("answer", [failed(0.3), failed(0.0), LOST])
def test_once_anew_with_a_new_request_after_the_time_named(fake: FakeBroker, answer: Refusal) -> None:
    fake.script("IssueCredential", answer)
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        start = time.monotonic()
        step.issue(SCOPE)
        assert time.monotonic() - start >= (answer.retry_after or 0)
    assert len(set(ids(fake))) == len(ids(fake)) == 2


def test_a_mutant_that_sends_the_same_request_is_seen(fake: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_step_core, "new_request_id", lambda: "00000000-0000-4000-8000-000000000000")
    with pytest.raises(AssertionError):
        test_once_anew_with_a_new_request_after_the_time_named(fake, LOST)


@pytest.mark.parametrize("retry", [0, 1, 2])
def test_at_most_so_often(fake: FakeBroker, retry: int) -> None:
    fake.script("IssueCredential", *[failed(0.01)] * 5)
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE], retry=retry) as step:
        with pytest.raises(stepcred.ProviderFailed):
            step.issue(SCOPE)
        assert len(ids(fake)) == retry + 1
        time.sleep(0.02)
        with pytest.raises(stepcred.ProviderFailed):
            step.issue(SCOPE, retry=0)
        assert len(ids(fake)) == retry + 2
        with pytest.raises(ValueError, match="retry"):
            step.issue(SCOPE, retry=-1)


@pytest.mark.parametrize("answer", [LOST, failed(0.0)])
def test_each_of_them_is_sent_when_no_time_is_named(
    fake: FakeBroker, monkeypatch: pytest.MonkeyPatch, answer: Refusal
) -> None:
    monkeypatch.setattr(_refusals, "FIRST_PAUSE", 0.05)
    fake.script("IssueCredential", *[answer] * 3)
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE], retry=3) as step:
        step.issue(SCOPE)
    assert len(ids(fake)) == 4


def test_not_beyond_the_deadline(fake: FakeBroker) -> None:
    fake.script("IssueCredential", failed(3.0))
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        start = time.monotonic()
        with pytest.raises(stepcred.ProviderFailed):
            step.issue(SCOPE, timeout=2.5)
        assert time.monotonic() - start < 2
        assert len(ids(fake)) == 1
        # What stands is the answer at once, although there would be time: nothing of it was asked now.
        with pytest.raises(stepcred.ProviderFailed) as caught:
            step.issue(SCOPE, timeout=60)
        assert caught.value.retry_after is not None
        assert len(ids(fake)) == 1


def test_a_mutant_without_a_deadline_is_seen(fake: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked_once(timeout: float) -> None:
        fake.script("IssueCredential", failed(0.6))
        before = len(ids(fake))
        with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
            with contextlib.suppress(stepcred.ProviderFailed):
                step.issue(SCOPE, timeout=timeout)
            assert len(ids(fake)) == before + 1

    asked_once(0.5)
    monkeypatch.setattr(_step_core, "checked_timeout", lambda _: 60.0)
    with pytest.raises(AssertionError):
        asked_once(0.5)


def test_all_of_it_has_one_deadline(fake: FakeBroker) -> None:
    fake.script("IssueCredential", failed(0.5))
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        fake.delay["IssueCredential"] = 0.7
        start = time.monotonic()
        with pytest.raises(stepcred.DeadlineExceeded):
            step.issue(SCOPE, timeout=1.5)
        assert time.monotonic() - start < 2.5


@pytest.mark.parametrize("reason", ["LOCKED", "FROZEN", "LEASE_ENDED", "INTERNAL"])
def test_nothing_else_is_asked_anew(fake: FakeBroker, reason: str) -> None:
    fake.script("IssueCredential", Refusal(code=grpc.StatusCode.FAILED_PRECONDITION, reason=reason))
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE], retry=3) as step:
        with pytest.raises(stepcred.Refused):
            step.issue(SCOPE)
        assert len(ids(fake)) == 1


async def test_the_same_in_asyncio(fake: FakeBroker) -> None:
    fake.script("IssueCredential", failed(0.05))
    async with stepcred.aio.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        assert (await step.credential(SCOPE)).lease.lease_id == "lease-1"
    assert len(set(ids(fake))) == 2


def test_after_all_of_them_the_memory_of_refusals_holds(fake: FakeBroker) -> None:
    fake.script("IssueCredential", LOST, LOST)
    with stepcred.connect() as broker, broker.step(scopes=[SCOPE]) as step:
        for _ in range(20):
            with pytest.raises(stepcred.Refused, match="REPLAY_LOST"):
                step.credential(SCOPE)
    assert len(ids(fake)) == 2
