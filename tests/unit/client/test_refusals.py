"""No client of ours turns a NEVER into another request: counted on the wire."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stepcred
from broker.errors import Reason
from broker.rpc.status import CODES
from stepcred import _refusals, _settings
from stepcred._core import BrokerCore
from stepcred._refusals import PASSING, Refusals
from stepcred._sync import Broker
from stepcred._transport import OPTIONS, Lanes
from stepcred.v1 import broker_pb2 as pb
from stepcred.v1.broker_pb2_grpc import CredentialBrokerStub, add_CredentialBrokerServicer_to_server
from tests.fakes.broker_server import FakeBroker, Refusal

SCOPES = ["orders-read", "orders-db"]
RETRYING = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "0.02s",
                    "backoffMultiplier": 1.0,
                    "retryableStatusCodes": ["UNAVAILABLE", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "ABORTED"],
                },
            }
        ]
    }
)


@pytest.fixture(autouse=True)
def _settings_of_the_broker(environ: dict[str, str]) -> None:
    """Every test here has the broker's settings."""


def never(reason: str) -> Refusal:
    return Refusal(code=CODES[Reason(reason)], reason=reason, pushback="-1")


def later(seconds: float) -> Refusal:
    return Refusal(
        code=grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason="COOLING",
        verdict="RETRY_AFTER",
        retry_after=seconds,
        pushback=str(int(seconds * 1000)),
    )


NEEDS_APPROVAL = Refusal(
    code=grpc.StatusCode.FAILED_PRECONDITION, reason="NEEDS_APPROVAL", verdict="NEEDS_APPROVAL", pushback="-1"
)


@dataclass
class Time:
    """A clock that only the test moves."""

    now: float = 1000.0


def broker(time: Time) -> Broker:
    """As `stepcred.connect` makes it, but for its clock."""
    read = _settings.read(addr=None, cert=None, key=None, ca=None)
    lanes = Lanes(read.source, lambda tls: grpc.secure_channel(read.addr, tls, options=OPTIONS))
    return Broker(lanes, BrokerCore(addr=read.addr, timeout=30.0, monotonic=lambda: time.now))


@dataclass
class Rule:
    """What the page promises, counted once more: of each scope, the answers that were on the wire, and when."""

    final: dict[str, str] = field(default_factory=dict)  # scope → reason
    not_before: dict[str, float] = field(default_factory=dict)
    in_a_row: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    refused_input: set[tuple[str, str]] = field(default_factory=set)

    def may_send(self, scope: str, replaces: str, now: float) -> bool:
        return (
            scope not in self.final
            and (scope, replaces) not in self.refused_input
            and now >= self.not_before.get(scope, 0.0)
        )

    def heard(self, scope: str, replaces: str, answer: Refusal | None, now: float) -> None:
        if answer is None:
            self.in_a_row[scope] = 0
            return
        self.in_a_row[scope] += 1
        row = self.in_a_row[scope]
        self.not_before[scope] = now + (0.0 if row == 1 else min(2.0 * 1.5 ** (row - 2), 15.0))
        if answer.retry_after:
            self.not_before[scope] = now + answer.retry_after
        elif answer.verdict == "NEVER" and answer.reason not in PASSING:
            if answer.reason == "INVALID_ARGUMENT" or (answer.reason == "ACCESS_DENIED" and replaces):
                self.refused_input.add((scope, replaces))
            else:
                self.final[scope] = answer.reason


ANSWERS = st.sampled_from(
    [
        None,
        *map(never, ["LOCKED", "HELD", "CEILING", "ACCESS_DENIED", "SCOPE_NOT_NAMED", "INVALID_ARGUMENT"]),
        *map(never, ["FROZEN", "FROZEN", "REPLAY_LOST", "NOT_REPLACEABLE", "INTERNAL"]),
        *map(later, [0.0, 3.0, 60.0]),
        NEEDS_APPROVAL,
    ]
)
ASK = st.tuples(st.sampled_from(SCOPES), st.sampled_from(["", "", "lease-1", "lease-2"]), ANSWERS)
MOVES = st.lists(ASK | st.sampled_from([0.5, 2.0, 5.0, 20.0, 4000.0]), max_size=25)


def play(fake: FakeBroker, moves: list[tuple[str, str, Refusal | None] | float]) -> None:
    """Ask as the moves say; after each, exactly what the rule allows has been on the wire."""
    time, rule = Time(), Rule()
    with broker(time) as connection, connection.step(scopes=SCOPES, retry=0) as step:
        for move in moves:
            if isinstance(move, float):
                time.now += move
                continue
            scope, replaces, answer = move
            before = len(fake.requests("IssueCredential"))
            if answer is not None:
                fake.script("IssueCredential", answer)
            refused: stepcred.Refused | None = None
            try:
                step.issue(scope, replaces=replaces or None)
            except stepcred.Refused as error:
                refused = error
            fake.unscript("IssueCredential")
            sent = len(fake.requests("IssueCredential")) - before
            assert sent == rule.may_send(scope, replaces, time.now), (move, rule)
            if sent:
                rule.heard(scope, replaces, answer, time.now)
                assert (refused.reason if refused else None) == (answer.reason if answer else None)
            elif scope in rule.final:
                assert refused is not None
                assert (refused.reason, refused.retry_after) == (rule.final[scope], None)
            elif (scope, replaces) not in rule.refused_input:
                assert refused is not None
                assert refused.retry_after == pytest.approx(rule.not_before[scope] - time.now)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MOVES)
def test_whatever_was_answered_the_requests_obey_the_rule(
    fake: FakeBroker, moves: list[tuple[str, str, Refusal | None] | float]
) -> None:
    play(fake, moves)


@pytest.mark.parametrize("wrong", ["forgets", "forgets for a time", "remembers for ever"])
def test_the_rule_is_one_that_a_wrong_client_breaks(
    fake: FakeBroker, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrong == "forgets":
        monkeypatch.setattr(Refusals, "must_be_asked", lambda *_: None)
    elif wrong == "forgets for a time":
        monkeypatch.setattr(_refusals, "is_final", lambda _: False)
    else:
        monkeypatch.setattr(_refusals, "PASSING", frozenset())
    scope = SCOPES[0]
    moves: list[tuple[str, str, Refusal | None] | float] = [
        (scope, "", never("FROZEN")),
        20.0,
        (scope, "", never("LOCKED")),
        4000.0,
        (scope, "", None),
    ]
    with pytest.raises(AssertionError):
        play(fake, moves)


# DRAINING is no decision about the scope; it is paced by its pushback.
DECISIONS = [reason for reason in Reason if CODES[reason] is not grpc.StatusCode.UNAVAILABLE]


@pytest.mark.parametrize("reason", DECISIONS, ids=lambda reason: reason.value)
def test_a_loop_around_a_refusal_is_no_storm(fake: FakeBroker, reason: Reason) -> None:
    refusal = NEEDS_APPROVAL if reason is Reason.NEEDS_APPROVAL else never(reason.value)
    fake.script("IssueCredential", *[refusal] * 300)
    with stepcred.connect() as connection, connection.step(scopes=SCOPES, retry=0) as step:
        for _ in range(300):
            with pytest.raises(stepcred.Refused) as caught:
                step.issue(SCOPES[0])
            assert caught.value.reason == reason.value
    assert len(fake.requests("IssueCredential")) == (
        2 if reason.value in PASSING or reason is Reason.NEEDS_APPROVAL else 1
    )


def test_a_broker_that_drains_is_not_asked_before_its_time(fake: FakeBroker) -> None:
    time = Time()
    fake.script(
        "IssueCredential",
        Refusal(code=grpc.StatusCode.UNAVAILABLE, reason="DRAINING", retry_after=60, pushback="60000"),
    )
    with broker(time) as connection, connection.step(scopes=SCOPES, retry=0) as step:
        for left in (60, 50, 40):
            with pytest.raises(stepcred.BrokerUnavailable) as caught:
                step.issue(SCOPES[0])
            assert (caught.value.reason, caught.value.retry_after) == ("DRAINING", left)
            time.now += 10
        assert len(fake.requests("IssueCredential")) == 1
        time.now += 40
        step.issue(SCOPES[0])


def test_a_step_that_was_locked_may_be_opened_anew(fake: FakeBroker) -> None:
    """The rule is a step's own: its next attempt is another question."""
    fake.script("IssueCredential", never("LOCKED"))
    with stepcred.connect() as connection:
        for _ in range(2):
            with connection.step(scopes=SCOPES, retry=0) as step:
                try:
                    step.issue(SCOPES[0])
                except stepcred.GuardRefused:
                    continue
    assert len(fake.requests("IssueCredential")) == 2


def test_a_lease_is_not_revoked_in_a_loop(fake: FakeBroker) -> None:
    with stepcred.connect() as connection, connection.step(scopes=SCOPES, retry=0) as step:
        for _ in range(50):
            with pytest.raises(stepcred.AccessDenied):
                step.revoke("lease-of-another")
        step.revoke(step.issue(SCOPES[0]))
    assert len(fake.requests("RevokeLease")) == 2


async def test_the_asyncio_client_obeys_too(fake: FakeBroker) -> None:
    fake.script("IssueCredential", never("HELD"))
    async with stepcred.aio.connect() as connection, connection.step(scopes=SCOPES, retry=0) as step:
        for _ in range(50):
            with pytest.raises(stepcred.GuardRefused):
                await step.issue(SCOPES[0])
        await step.issue(SCOPES[1])
    assert len(fake.requests("IssueCredential")) == 2


def test_a_pushback_in_the_trailers_is_waited_for(fake: FakeBroker) -> None:
    fake.script("IssueCredential", Refusal(code=grpc.StatusCode.UNAVAILABLE, pushback="1200"))
    with stepcred.connect() as connection, connection.step(scopes=SCOPES, retry=0) as step:
        begun = time.monotonic()
        step.issue(SCOPES[0])
        assert time.monotonic() - begun >= 1.2


@pytest.fixture
def plain(fake: FakeBroker) -> Iterator[str]:
    """The same broker without TLS, for channels that are not ours."""
    server = grpc.server(ThreadPoolExecutor(2))
    add_CredentialBrokerServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(grace=0).wait(timeout=5)


def attempts(fake: FakeBroker, addr: str, *options: tuple[str, str | int]) -> int:
    fake.unscript("IssueCredential")
    fake.script("IssueCredential", *[Refusal(code=grpc.StatusCode.UNAVAILABLE)] * 9)
    before = len(fake.requests("IssueCredential"))
    with (
        grpc.insecure_channel(addr, options=[("grpc.service_config", RETRYING), *options]) as channel,
        pytest.raises(grpc.RpcError),
    ):
        CredentialBrokerStub(channel).IssueCredential(pb.IssueCredentialRequest(), timeout=10)
    return len(fake.requests("IssueCredential")) - before


def test_our_channels_retry_nothing_by_themselves_whatever_policy_there_is(fake: FakeBroker, plain: str) -> None:
    assert attempts(fake, plain) == 5
    assert attempts(fake, plain, *OPTIONS) == 1
