"""The sync client against a fake broker behind real mutual TLS."""

from __future__ import annotations

from datetime import UTC, timedelta

import grpc
import pytest

import stepcred
from tests.fakes.broker_server import DENIED, STEP_ENDED, UNAVAILABLE, FakeBroker, Refusal


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str]) -> None:
    """Every test here has the broker's settings."""


def test_five_lines_get_a_token_and_leave_it_dead(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        token = step.issue("orders-read")
        assert isinstance(token, stepcred.VaultToken)
        assert token.token == "s3cret-lease-1"
        assert step.alive
    assert fake.only_step().ended
    assert not step.alive
    assert [outcome.state for outcome in step.outcomes] == [stepcred.LeaseState.REVOKED]
    assert step.summary() == "1 credential dead, proven in 41 ms"
    assert step.all_proven
    name = fake.only_step().name
    assert (name.workflow, name.run, name.step) == ("nightly-etl", "42", "load")


def test_an_exception_in_the_body_ends_the_step_and_comes_through(fake: FakeBroker) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        stepcred.connect() as broker,
        broker.step(scopes=["orders-read"]),
    ):
        raise KeyboardInterrupt
    assert fake.only_step().ended


def test_a_failing_end_is_a_note_on_the_bodys_exception(fake: FakeBroker) -> None:
    fake.script("EndStep", DENIED)
    with (
        pytest.raises(RuntimeError, match="body") as caught,
        stepcred.connect() as broker,
        broker.step(scopes=["orders-read"]),
    ):
        raise RuntimeError("body")
    assert "could not be ended" in caught.value.__notes__[0]
    assert "ACCESS_DENIED" in caught.value.__notes__[0]


def test_a_failing_end_is_raised_when_the_body_succeeded(fake: FakeBroker) -> None:
    fake.script("EndStep", DENIED)
    with pytest.raises(stepcred.AccessDenied), stepcred.connect() as broker, broker.step(scopes=["orders-read"]):
        pass


def test_a_step_that_the_broker_has_ended_needs_no_end(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        fake.only_step().ended = True
    assert step.summary() == "the broker had already ended this step"


def test_unavailable_is_tried_again_with_the_same_request_id(fake: FakeBroker) -> None:
    fake.script("IssueCredential", UNAVAILABLE, UNAVAILABLE, UNAVAILABLE)
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        step.issue("orders-read")
        step.issue("orders-read")
    sent = [request.request_id for request in fake.requests("IssueCredential")]
    assert len(sent) == 5
    assert len(set(sent[:4])) == 1
    assert sent[4] != sent[0]


def test_at_most_three_retries(fake: FakeBroker) -> None:
    fake.script("IssueCredential", *[UNAVAILABLE] * 9)
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        with pytest.raises(stepcred.BrokerUnavailable):
            step.issue("orders-read")
        assert len(fake.requests("IssueCredential")) == 4


@pytest.mark.parametrize("pushback", ["-1", "soon", ""])
def test_pushback_never_is_obeyed(fake: FakeBroker, pushback: str) -> None:
    fake.script("IssueCredential", Refusal(code=grpc.StatusCode.UNAVAILABLE, pushback=pushback))
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        with pytest.raises(stepcred.BrokerUnavailable):
            step.issue("orders-read")
        assert len(fake.requests("IssueCredential")) == 1


def test_pushback_beyond_the_deadline_is_not_waited_for(fake: FakeBroker) -> None:
    fake.script("IssueCredential", Refusal(code=grpc.StatusCode.UNAVAILABLE, pushback="60000"))
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        with pytest.raises(stepcred.BrokerUnavailable):
            step.issue("orders-read", timeout=2)
        assert len(fake.requests("IssueCredential")) == 1


@pytest.mark.parametrize(
    ("refusal", "kind", "verdict"),
    [
        (DENIED, stepcred.AccessDenied, "NEVER"),
        (
            Refusal(
                code=grpc.StatusCode.RESOURCE_EXHAUSTED,
                reason="COOLING",
                verdict="RETRY_AFTER",
                retry_after=20,
                pushback="20000",
            ),
            stepcred.GuardRefused,
            "RETRY_AFTER",
        ),
        (
            Refusal(code=grpc.StatusCode.FAILED_PRECONDITION, reason="LOCKED", pushback="-1"),
            stepcred.GuardRefused,
            "NEVER",
        ),
        (
            Refusal(code=grpc.StatusCode.ABORTED, reason="PROVIDER_FAILED", verdict="RETRY_AFTER", retry_after=20),
            stepcred.ProviderFailed,
            "RETRY_AFTER",
        ),
        (
            Refusal(code=grpc.StatusCode.FAILED_PRECONDITION, reason="NEEDS_APPROVAL", verdict="NEEDS_APPROVAL"),
            stepcred.NeedsApproval,
            "NEEDS_APPROVAL",
        ),
        (Refusal(code=grpc.StatusCode.INVALID_ARGUMENT, reason="A_NEWER_REASON"), stepcred.Refused, "NEVER"),
    ],
)
def test_a_refusal_is_typed_and_not_repeated(
    fake: FakeBroker, refusal: Refusal, kind: type[stepcred.Refused], verdict: str
) -> None:
    fake.script("IssueCredential", refusal)
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        with pytest.raises(kind) as caught:
            step.issue("orders-read")
        assert len(fake.requests("IssueCredential")) == 1
    refused = caught.value
    assert type(refused) is kind
    assert (refused.reason, refused.verdict.value) == (refusal.reason, verdict)
    assert (refused.retry_after, refused.reference_id) == (refusal.retry_after, "ref-1")
    assert refusal.message in str(refused)
    assert refusal.reason in str(refused)
    assert "ref-1" in str(refused)


def test_an_answer_without_our_details_is_not_taken_for_a_refusal(fake: FakeBroker) -> None:
    fake.script("WhoAmI", Refusal(code=grpc.StatusCode.UNIMPLEMENTED, message="no such method"))
    with stepcred.connect() as broker, pytest.raises(stepcred.UnexpectedAnswer, match="UNIMPLEMENTED"):
        broker.whoami()


def test_every_call_has_a_deadline(fake: FakeBroker) -> None:
    fake.delay["IssueCredential"] = 1.5
    with stepcred.connect(timeout=10) as broker, broker.step(scopes=["orders-read"]) as step:
        with pytest.raises(stepcred.DeadlineExceeded):
            step.issue("orders-read", timeout=0.2)
        for bad in (0, -1, float("inf"), float("nan")):
            with pytest.raises(ValueError, match="timeout"):
                step.issue("orders-read", timeout=bad)
    with pytest.raises(ValueError, match="timeout"):
        stepcred.connect(timeout=float("inf"))


def test_an_unreachable_broker_is_said_to_be_so(fake: FakeBroker) -> None:
    fake.stop()
    with stepcred.connect(timeout=3) as broker, pytest.raises(stepcred.BrokerUnavailable, match=fake.addr):
        broker.whoami()


def test_a_restart_of_the_broker_is_survived(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        step.issue("orders-read")
        fake.stop()
        fake.start()
        step.issue("orders-read")
    assert step.summary() == "2 credentials dead, proven in 41 ms"


def test_a_lease_can_be_replaced_and_revoked(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"], max_duration=90) as step:
        first = step.issue("orders-read")
        step.issue("orders-read", replaces=first)
        outcome = step.revoke(first)
        assert outcome.proven
        assert outcome.evidence is stepcred.Evidence.SEEN_DEAD
    assert fake.requests("IssueCredential")[1].replaces == first.lease.lease_id
    assert fake.requests("BeginStep")[0].max_duration.seconds == 90


def test_what_is_exposed_at_the_end_is_said(fake: FakeBroker) -> None:
    fake.exposed_for = timedelta(minutes=5)
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        step.issue("orders-read")
    bound = step.outcomes[0].exposed_until
    assert bound is not None
    assert step.summary().startswith("1 exposed until ")
    assert step.summary().endswith(bound.astimezone(UTC).strftime("%H:%MZ"))
    assert not step.all_proven


def test_whoami_and_check(fake: FakeBroker) -> None:
    with stepcred.connect() as broker:
        assert broker.whoami().workloads == {"load": {"workflow": "nightly-etl"}}
        yes, no, told = broker.check(scopes=["orders-read", "nope", "out-of-hours"])
    assert yes.granted
    assert yes.tier is stepcred.Tier.LOW
    assert (no.granted, no.reason, no.rule) == (False, "ACCESS_DENIED", "")
    assert (told.rule, told.position) == ("nightly-load", "scopes.yaml:31")
    assert not fake.steps


def test_one_string_is_not_a_list_of_scopes() -> None:
    with stepcred.connect() as broker, pytest.raises(TypeError):
        broker.step(scopes="orders-read")


def test_issue_after_the_end_is_refused_without_a_call(fake: FakeBroker) -> None:
    fake.script("IssueCredential", STEP_ENDED)
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        for _ in range(2):
            with pytest.raises(stepcred.StepEnded):
                step.issue("orders-read")
        assert not step.alive
    assert len(fake.requests("IssueCredential")) == 1
