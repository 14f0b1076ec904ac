"""However long it takes and whatever is answered meanwhile: what a wait sends, and when. No network, no real time."""

from __future__ import annotations

import contextlib
import itertools
import random
from dataclasses import dataclass, field

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

import stepcred
from stepcred._core import BrokerCore, StepCore
from stepcred._flow import Call, Flow, Pause
from stepcred._refusals import Given
from stepcred._status import CallFailed
from stepcred.v1 import broker_pb2 as pb
from tests.fakes.broker_server import FakeApproval, Refusal

SCOPE = "lake-write"
GRANTED, NOT_YET, ONE_MORE, BUSY, AWAY = "granted", "not yet", "one more", "busy", "away"
BUSY_FOR = 40.0


@dataclass
class Simulation:
    """Drives a flow by a clock of its own. `answers`: of CheckAccess; after the last one it stays as it is."""

    answers: list[str]
    mints: list[bool]  # of IssueCredential, after the first
    now: float = 0.0
    sent: list[tuple[float, str]] = field(default_factory=list)
    approval: FakeApproval = field(default_factory=lambda: FakeApproval(id="a", needed=99))

    def step(self) -> StepCore:
        seeded = random.Random(7)
        broker = BrokerCore(addr="b:1", timeout=15.0, monotonic=lambda: self.now, uniform=seeded.uniform)
        return StepCore(broker=broker, wait=0.0, handle="h", alive=True)

    def run(self, flow: Flow[object]) -> object:
        effect = next(flow)
        try:
            while True:
                if isinstance(effect, Pause):
                    self.now += effect.seconds
                    effect = next(flow)
                    continue
                self.sent.append((self.now, effect.method))
                try:
                    answer = self._answer(effect)
                except CallFailed as failed:
                    effect = flow.throw(failed)
                else:
                    effect = flow.send(answer)
        except StopIteration as done:
            return done.value

    def _answer(self, call: Call) -> Message:
        if call.method == "CheckAccess":
            return self._looked()
        first = sum(method == "IssueCredential" for _, method in self.sent) == 1
        if first or not (self.mints.pop(0) if self.mints else False):
            raise _failed(self.approval.refusal)
        response = pb.IssueCredentialResponse()
        response.credential.vault_token.token = "t"
        return response

    def _looked(self) -> Message:
        answer = self.answers.pop(0) if self.answers else NOT_YET
        if answer == BUSY:
            raise _failed(
                Refusal(
                    code=grpc.StatusCode.RESOURCE_EXHAUSTED,
                    reason="RATE_LIMITED",
                    verdict="RETRY_AFTER",
                    retry_after=BUSY_FOR,
                )
            )
        if answer == AWAY:
            raise _failed(Refusal(code=grpc.StatusCode.UNAVAILABLE))
        self.approval.given += answer == ONE_MORE
        verdict = pb.ScopeVerdict(
            scope=SCOPE,
            verdict=pb.VERDICT_GRANTED if answer == GRANTED else pb.VERDICT_NEEDS_APPROVAL,
            approval_id="a",
            approvals_needed=99,
            approvals_given=self.approval.given,
        )
        return pb.CheckAccessResponse(scopes=[verdict])


def _failed(refusal: Refusal) -> CallFailed:
    return CallFailed(refusal.code.name, refusal.message, refusal.trailers())


@given(
    st.lists(st.sampled_from([NOT_YET, NOT_YET, ONE_MORE, BUSY, AWAY, GRANTED]), max_size=60),
    st.lists(st.booleans(), max_size=10),
    st.floats(0.5, 3600),
)
def test_a_wait_asks_seldom_mints_once_and_ends_in_time(answers: list[str], mints: list[bool], timeout: float) -> None:
    simulation, told = Simulation(list(answers), list(mints)), list[int]()
    flow = simulation.step().issue(
        SCOPE, Given(), timeout=None, patience=timeout, tell=lambda one: told.append(one.approvals_given)
    )
    with contextlib.suppress(stepcred.NeedsApproval):
        simulation.run(flow)
    assert simulation.now <= timeout + 1e-6
    looks = [at for at, method in simulation.sent if method == "CheckAccess"]
    asked = [at for at, method in simulation.sent if method == "IssueCredential"]
    granted = answers[: len(looks)].count(GRANTED)
    assert len(asked) <= 1 + granted  # only what is granted is asked for
    gaps = [later - earlier for earlier, later in itertools.pairwise([0.0, *looks])]
    # The last look before the deadline comes with it.
    assert all(gap >= 1.6 or looks[number] >= timeout - 1e-6 for number, gap in enumerate(gaps))
    assert all(gap <= max(15.0 * 1.2, BUSY_FOR) + 1e-6 for gap in gaps)
    for number, answer in enumerate(answers[: len(looks) - 1]):
        assert answer != BUSY or looks[number + 1] - looks[number] >= BUSY_FOR - 1e-6
    assert told == sorted(told)


def test_half_an_hour_is_some_hundred_and_thirty_looks() -> None:
    simulation = Simulation([], [])
    with pytest.raises(stepcred.NeedsApproval):
        simulation.run(simulation.step().issue(SCOPE, Given(), timeout=None, patience=1800.0, tell=None))
    assert 100 <= len(simulation.sent) <= 155
    assert [method for _, method in simulation.sent].count("IssueCredential") == 1
    assert simulation.now == pytest.approx(1800.0)


def test_what_is_granted_and_never_given_is_asked_for_less_and_less_often() -> None:
    simulation = Simulation([GRANTED] * 10_000, [])
    with pytest.raises(stepcred.NeedsApproval):
        simulation.run(simulation.step().issue(SCOPE, Given(), timeout=None, patience=1800.0, tell=None))
    assert [method for _, method in simulation.sent].count("IssueCredential") < 155
