"""When successors are asked for, and when no more: by a clock of the test's own, without a network."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

import stepcred
from stepcred import _keeping
from stepcred._core import BrokerCore, StepCore
from stepcred._flow import Call, Flow, Pause
from stepcred._keeper import Keeper
from stepcred._refusals import Refusals
from stepcred._status import CallFailed
from stepcred.v1 import broker_pb2 as pb
from tests.fakes.broker_server import DENIED, Refusal

SCOPE = "orders-read"
EPOCH = datetime(2026, 11, 28, 12, tzinfo=UTC)
FROZEN = Refusal(code=grpc.StatusCode.FAILED_PRECONDITION, reason="FROZEN")
EXHAUSTED = Refusal(code=grpc.StatusCode.FAILED_PRECONDITION, reason="SUCCESSORS_EXHAUSTED")
LOCKED = Refusal(code=grpc.StatusCode.FAILED_PRECONDITION, reason="LOCKED")
SILENCE = Refusal(code=grpc.StatusCode.DEADLINE_EXCEEDED)
LATER = Refusal(
    code=grpc.StatusCode.ABORTED, reason="PROVIDER_FAILED", verdict="RETRY_AFTER", retry_after=4.0, pushback="4000"
)


@dataclass
class World:
    """A broker and a client; `skew`: of the broker's clock. `answers`: of successors; without any it gives them."""

    ttl: float = 600.0
    ripe: float = 2 / 3
    latency: float = 0.0  # seconds, each way
    skew: timedelta = timedelta()
    answers: list[Refusal] = field(default_factory=list)
    seed: int = 7
    now: float = 1000.0
    asked: list[tuple[float, str, str]] = field(default_factory=list)  # when, replaces, request id
    beats: list[tuple[float, list[str]]] = field(default_factory=list)
    born: dict[str, float] = field(default_factory=dict)  # lease id → when, as the broker knows

    def __post_init__(self) -> None:
        broker = BrokerCore(
            addr="b:1", timeout=15.0, monotonic=lambda: self.now, uniform=random.Random(self.seed).uniform
        )
        self.step = StepCore(broker=broker, wait=0.0, handle="h", alive=True)
        self.keeper = Keeper(step=self.step)

    def run(self, flow: Flow[object]) -> object:
        try:
            effect = next(flow)
            while True:
                if isinstance(effect, Pause):
                    self.now += effect.seconds
                    effect = next(flow)
                    continue
                try:
                    answer = self._answer(effect)
                except CallFailed as failed:
                    effect = flow.throw(failed)
                else:
                    effect = flow.send(answer)
        except StopIteration as done:
            return done.value

    def until(self, end: float) -> None:
        """As the shells do: what is due, then a pause. The keeper is woken for nothing now and then, too."""
        while self.now < end:
            pause = self.run(self.keeper.keep())
            assert isinstance(pause, float)
            assert pause > 0, "it spins"
            self.now = min(self.now + min(pause, 97.0), end)

    def _answer(self, call: Call) -> Message:
        if call.method == "Heartbeat":
            self.beats.append((self.now, list(call.request.held_lease_ids)))
            return pb.HeartbeatResponse()
        assert call.method == "IssueCredential"
        self.asked.append((self.now, call.request.replaces, call.request.request_id))
        self.now += self.latency
        if call.request.replaces:
            if self.answers:
                refusal = self.answers.pop(0)
                self.now += call.timeout if refusal is SILENCE else 0.0
                raise CallFailed(refusal.code.name, refusal.message, refusal.trailers())
            rounding = 1e-5  # times on the wire
            assert self.now >= self.born[call.request.replaces] + self.ttl * self.ripe - rounding, (
                "asked before it is accepted"
            )
            assert self.now < self.born[call.request.replaces] + self.ttl, "asked for what has ended"
        response = pb.IssueCredentialResponse()
        response.credential.vault_token.token = "t"
        lease = response.lease
        lease.lease_id = f"lease-{len(self.born) + 1}"
        lease.scope = SCOPE
        self.born[lease.lease_id] = self.now
        there = EPOCH + self.skew + timedelta(seconds=self.now)
        lease.issued_at.FromDatetime(there)
        lease.expires_at.FromDatetime(there + timedelta(seconds=self.ttl))
        lease.successor_from.FromDatetime(there + timedelta(seconds=self.ttl * self.ripe))
        self.now += self.latency
        return response

    def first(self) -> stepcred.Credential:
        credential = self.run(self.keeper.first(SCOPE, timeout=None))
        assert isinstance(credential, stepcred.Credential)
        return credential


def play(world: World) -> None:
    """Three successors, each in its time, and something live at every moment."""
    world.first()
    start = world.now
    for _ in range(400):
        world.until(world.now + world.ttl / 100)
        live = world.keeper.live(SCOPE)
        assert live is not None
        assert world.now < world.born[live.lease.lease_id] + world.ttl
    assert len(world.asked) >= 4
    assert len(world.asked) <= 2 + (world.now - start) / (0.6 * world.ttl)
    for at, replaces, _ in world.asked[1:]:
        age = at - world.born[replaces]
        assert age <= 0.85 * world.ttl + world.ttl / 100 + 2 * world.latency


@given(
    ttl=st.floats(60, 86_400),
    ripe=st.floats(0.1, 0.8),
    latency=st.floats(0, 1.5),
    skew=st.timedeltas(timedelta(days=-400), timedelta(days=400)),
    seed=st.integers(0, 10**6),
)
def test_successors_come_in_time_whatever_the_clocks_say(
    ttl: float, ripe: float, latency: float, skew: timedelta, seed: int
) -> None:
    play(World(ttl=ttl, ripe=ripe, latency=latency, skew=skew, seed=seed))


@pytest.mark.parametrize("due", [(0.1, 0.2), (0.97, 0.99), (1.1, 1.2)])
def test_mutants_of_the_time_are_seen(due: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_keeping, "DUE", due)
    if due[0] < 0.5:  # only the broker's word keeps it from asking too early
        monkeypatch.setattr(_keeping, "max", min, raising=False)
    with pytest.raises(AssertionError):
        play(World())


@pytest.mark.parametrize("answer", [EXHAUSTED, LOCKED, DENIED])
def test_refused_for_good_the_last_one_is_served_to_its_end(answer: Refusal) -> None:
    world = World(answers=[answer])
    first = world.first()
    world.until(world.now + 595)
    assert len(world.asked) == 2
    assert world.keeper.live(SCOPE) is first
    world.until(world.now + 5000)
    assert world.keeper.live(SCOPE) is None
    assert len(world.asked) == 2  # nothing new is minted by itself
    with pytest.raises(stepcred.Refused, match=answer.reason):
        world.keeper.lasting(SCOPE)


def test_after_the_end_a_new_one_is_charged_when_somebody_asks() -> None:
    world = World(answers=[EXHAUSTED])
    world.first()
    world.until(world.now + 700)
    world.first()
    assert [replaces for _, replaces, _ in world.asked] == ["", "lease-1", ""]
    world.until(world.now + 550)
    assert world.asked[3][1] == "lease-2"


@pytest.mark.parametrize("answer", [FROZEN, SILENCE, LATER, Refusal(code=grpc.StatusCode.UNAVAILABLE, pushback="-1")])
def test_what_may_pass_is_asked_again_in_growing_pauses_until_the_end(answer: Refusal) -> None:
    world = World(answers=[answer] * 1000)
    world.first()
    start = world.now
    world.until(world.now + 2000)
    times = [at - start for at, _, _ in world.asked[1:]]
    assert 450 <= times[0] <= 510
    assert 590 >= times[-1] >= 550
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert min(pauses) >= 2.0
    assert max(pauses) <= 15.0 + 15.0  # the longest pause, and a call's own time
    assert 6 <= len(times) <= 40


def test_a_mutant_that_never_gives_up_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Refusals, "must_be_asked", lambda *_: None)  # else what was refused is known there as well
    test_refused_for_good_the_last_one_is_served_to_its_end(DENIED)
    monkeypatch.setattr(_keeping, "is_final", lambda _: False)
    with pytest.raises(AssertionError):
        test_refused_for_good_the_last_one_is_served_to_its_end(DENIED)


def test_unanswered_it_is_the_same_request_refused_another() -> None:
    world = World(answers=[SILENCE, FROZEN])
    world.first()
    world.until(world.now + 590)
    _, lost, again, anew = [request_id for _, _, request_id in world.asked[:4]]
    assert lost == again  # the broker answers it with what it has made
    assert anew not in {lost, again}
    assert world.keeper.live(SCOPE) is not None


def test_a_successor_is_claimed_when_requests_under_way_are_over() -> None:
    world = World()
    world.first()
    while len(world.born) < 2:
        world.until(world.now + 1)
    got = world.born["lease-2"]
    assert world.run(world.step.heartbeat())
    assert world.beats[-1][1] == ["lease-1"]
    world.until(got + _keeping.OVERLAP + 1)
    at, held = world.beats[-1]
    assert held == ["lease-1", "lease-2"]
    assert got + _keeping.OVERLAP <= at <= got + _keeping.OVERLAP + 1


def test_a_lease_without_times_is_served_and_never_replaced() -> None:
    world = World()
    one = _keeping.kept(SCOPE, world.first(), sent=0.0, received=0.0, interval=10.0, uniform=random.uniform)
    assert one.ends < float("inf")
    lease = stepcred.Lease(
        lease_id="x",
        scope=SCOPE,
        tier=stepcred.Tier.LOW,
        revocability=stepcred.Revocability.EXACT,
        state=stepcred.LeaseState.ACTIVE,
        issued_at=None,
        expires_at=None,
        successor_from=None,
    )
    token = stepcred.VaultToken(lease=lease, token="t", address="", namespace="")
    one = _keeping.kept(SCOPE, token, sent=0.0, received=0.0, interval=10.0, uniform=random.uniform)
    assert one.ends == one.due == float("inf")


def test_what_a_child_has_lives_to_its_own_end() -> None:
    world = World()
    first = world.first()
    assert world.step.keeping.lend(SCOPE, "lease-1")
    assert not world.step.keeping.lend(SCOPE, "another")
    world.until(world.now + 599)
    assert world.keeper.live(SCOPE) is first
    assert world.keeper.fresh(SCOPE) <= 1
    assert len(world.asked) == 1
    world.until(world.now + 2)
    world.first()
    world.until(world.now + 599)
    assert [replaces for _, replaces, _ in world.asked] == ["", "", "lease-2"]


def test_a_successor_that_comes_when_a_child_has_it_is_given_back() -> None:
    world = World()
    first = world.first()
    world.now += 520  # it is due
    flow = world.keeper.keep()
    asked = next(flow)
    assert isinstance(asked, Call)
    assert world.step.keeping.lend(SCOPE, "lease-1")
    effect = flow.send(world._answer(asked))
    assert isinstance(effect, Call)
    assert (effect.method, effect.request.lease_id) == ("RevokeLease", "lease-2")
    assert world.keeper.live(SCOPE) is first
