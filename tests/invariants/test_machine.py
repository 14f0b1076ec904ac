"""A state machine over leases, provider, guard, clock and crash: whatever happens, in whatever order, I1 to I5 hold.

`STEPCRED_MACHINE=20000` sets the number of examples, and takes other ones each time.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker.errors import BrokerError, Reason
from broker.leases.successors import successor_from
from broker.model import Agent, EndReason, Lease, LeaseState, Revocability, Tier, VaultToken
from broker.store.base import Tx
from tests.fakes.launchers import SCHEDULER, launcher
from tests.fakes.loop import LoopOnClock
from tests.fakes.world import LOAD, MAP, OTHER, agent, new_id, refusal
from tests.invariants.driven import TICK, Driven, idle, passes
from tests.invariants.outside import TrueClock, secret_of
from tests.support.examples import examples

T = TypeVar("T")
EXAMPLES = int(os.environ.get("STEPCRED_MACHINE", "0"))
STEPS = 30
RUNS, EACH = 100, 12  # of a search for what a mutant does, and examples in each
BUDGET = {Tier.HIGH: 3, Tier.ELEVATED: 5, Tier.LOW: 10}  # per step and scope
REFILL = {Tier.HIGH: (0, 3600.0), Tier.ELEVATED: (5, 3600.0), Tier.LOW: (1, 60.0)}  # mints, per so many seconds
SILENCE = 45.0  # seconds
START_WITHIN = 900.0  # seconds
CLAIM = 30.0  # seconds
SOON = 5.0  # seconds: DESIGN section 2, I5
CALM = 30.0  # seconds of good weather after which no breaker is open any more
REST = 400.0  # seconds until all is known: landing time, and the longest backoff twice
SLACK = timedelta(seconds=30 + 3 * TICK)  # the clock skew allowed for, and a few looks
SCHEDULERS = (launcher(workloads=["load", "other"]),)
LESS = MAP.replace("scopes: [plain, elevated, danger, timed]", "scopes: [elevated, danger]")

STATES = {
    "LEASE_INTENT": LeaseState.INTENT,
    "LEASE_ACTIVE": LeaseState.ACTIVE,
    "LEASE_IN_DOUBT": LeaseState.IN_DOUBT,
    "LEASE_REVOKING": LeaseState.REVOKING,
    "LEASE_REVOKED": LeaseState.REVOKED,
    "LEASE_EXPIRED": LeaseState.EXPIRED,
    "LEASE_VOID": LeaseState.VOID,
}

pick = st.integers(0, 11)
half_done = st.one_of(st.none(), st.integers(0, 25))  # turns of the loop; None: all that can be done


@dataclass(frozen=True, kw_only=True)
class Opened:
    who: Agent
    handle: str
    step_id: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    step: Opened
    scope: str
    request_id: str


class Machine(RuleBasedStateMachine):
    """Rules do what callers, operators, backend, clock and bad luck do; the invariants look at what is true."""

    broker_of: Callable[[Path, TrueClock], Driven] = Driven
    scopes: Mapping[str, Sequence[str]] = {LOAD: ("plain", "elevated", "danger", "timed"), OTHER: ("plain",)}

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="stepcred-machine"))
        self.clock = TrueClock()
        self.loop = LoopOnClock(self.clock)
        self.broker = type(self).broker_of(self.folder, self.clock)
        self.steps: list[Opened] = []
        self.asked: list[Asked] = []
        self.calls: list[asyncio.Task[Any]] = []
        self.held: dict[str, Opened] = {}  # lease id → its step, as the client believes
        self.journal: dict[str, LeaseState] = {}
        self.resets: Counter[str] = Counter()  # guard key → how often operators have opened it
        self.read = 0
        self.heard: dict[str, float] = {}  # step id → when its client was last heard, on `attentive`
        self.attentive = 0.0  # seconds for which the broker could hear
        self.deaf_until = 0.0  # on `attentive`: start of the process, end of a stall
        self.misled = False  # the machine was booted under a wrong clock
        self.unclaimed: dict[str, float] = {}  # lease id → when it was first seen so, on `attentive`
        self.stormy = 0.0  # elapsed seconds when something was last wrong with the backend
        self.dying: dict[str, float] = {}  # lease id → elapsed seconds when it was first seen REVOKING
        self.ahead = 0.0  # seconds by which the wall clock was ever set forward, added up
        self.run(self.broker.start())
        self.run(self.broker.set_launchers(*SCHEDULERS))

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    # --- what callers do ---

    @rule(who=st.sampled_from([LOAD, OTHER]), run=st.sampled_from(["r1", "r2"]))
    def begin(self, who: str, run: str) -> None:
        """A step, or its next attempt."""
        try:
            opened = self.run(self.broker.begin(self.scopes[who], who=agent(who), run=run))
        except BrokerError:
            return
        self.steps.append(Opened(who=agent(who), handle=opened.handle, step_id=opened.step.id))
        self.heard[opened.step.id] = self.attentive

    @rule(who=st.sampled_from([LOAD, OTHER]), run=st.sampled_from(["r1", "r3"]))
    def launch(self, who: str, run: str) -> None:
        """A step, or its next attempt, opened by a launcher; its agent has not been heard yet."""
        try:
            opened = self.run(self.broker.launch(self.scopes[who], workload=who, run=run))
        except BrokerError:
            return
        self.steps.append(Opened(who=agent(who), handle=opened.handle, step_id=opened.step.id))
        self.heard[opened.step.id] = self.attentive

    @rule(who=st.sampled_from([LOAD, OTHER]))
    def launched_and_not_yet_heard(self, who: str) -> None:
        self.launch(who, "r3")
        self.time_passes(12, beats=False)

    @precondition(lambda self: self.steps)
    @rule(which=pick, turns=half_done)
    def its_launcher_ends_it(self, which: int, turns: int | None) -> None:
        """Nothing but the end, and only of its own (I8)."""
        step, scheduler = self.a_step(which), agent(SCHEDULER)
        mine = self.broker.step(step.step_id).launched
        for call in (self.broker.issue, self.beat_of):
            error = self.run(refusal(call(step.handle, who=scheduler)))
            assert error.reason in {Reason.ACCESS_DENIED, Reason.EPOCH_LOST}, "a launcher reached into a step"
        if mine:
            work = self.broker.engine.end_step(scheduler, request_id=new_id(), handle=step.handle, wait_seconds=0)
            self.called(work, turns)

    async def beat_of(self, handle: str, *, who: Agent) -> object:
        return await self.broker.engine.heartbeat(who, handle, [])

    @rule(gone=st.booleans())
    def launchers_come_and_go(self, *, gone: bool) -> None:
        self.run(self.broker.set_launchers(*(() if gone else SCHEDULERS)))

    @initialize()
    def first_steps(self) -> None:
        self.begin(LOAD, "r1")
        self.begin(OTHER, "r1")
        for which, scope in ((0, "plain"), (1, "plain"), (1, "timed")):
            self.issue_and_claim(which, scope, "answer")

    def a_step(self, which: int) -> Opened:
        """One that is open, unless none is."""
        open_ = [step for step in self.steps if step.step_id in self.heard] or self.steps
        return open_[-1 - which % len(open_)]

    @rule(
        which=pick, scope=st.sampled_from(["plain", "danger", "timed"]), how=st.sampled_from(["answer", "lose-answer"])
    )
    def issue_and_claim(self, which: int, scope: str, how: str) -> None:
        """As it should be, or nearly."""
        self.issue(which, scope, how, None)
        self.heartbeat(0, everything=True)

    @precondition(lambda self: self.steps)
    @rule(
        which=pick,
        scope=st.sampled_from(["plain", "danger", "danger", "timed", "elevated"]),
        how=st.sampled_from(["answer", "answer", "refuse", "lose-request", "lose-answer", "hang"]),
        turns=half_done,
    )
    def issue(self, which: int, scope: str, how: str, turns: int | None) -> None:
        step = self.a_step(which)
        named = self.scopes[step.who.spiffe_id]
        asked = Asked(step=step, scope=scope if scope in named else "plain", request_id=new_id())
        self.asked.append(asked)
        self.broker.outside.how = how
        self.ask(asked, turns)

    @precondition(lambda self: self.steps)
    @rule(which=pick)
    def insist(self, which: int) -> None:
        """A runaway."""
        for _ in range(BUDGET[Tier.HIGH] + 1):
            self.issue(which, "danger", "answer", None)

    @precondition(lambda self: self.steps)
    @rule(which=pick)
    def lose_an_answer(self, which: int) -> None:
        """The client forgets what no heartbeat has named yet, and goes on beating."""
        self.issue(which, "plain", "answer", None)
        claimed = {lease.id for lease in self.leases() if lease.claimed_at}
        self.held = {lease_id: step for lease_id, step in self.held.items() if lease_id in claimed}
        self.time_passes(12, beats=True)

    @precondition(lambda self: self.asked)
    @rule(which=pick, turns=half_done)
    def ask_again(self, which: int, turns: int | None) -> None:
        """A replay; nothing may be minted by it."""
        asked = self.asked[-1 - which % len(self.asked)]
        self.ask(asked, turns)

    def ask(self, asked: Asked, turns: int | None, *, replaces: str = "") -> None:
        call = self.broker.issue(
            asked.step.handle, asked.scope, who=asked.step.who, request_id=asked.request_id, replaces=replaces
        )
        self.calls.append(self.loop.create_task(self.deliver(asked, call)))
        self.run(passes(turns) if turns is not None else idle())

    async def deliver(self, asked: Asked, call: Any) -> str:
        """What is in the client's hands was journalled before (I3), and is what this request made: its lease's id."""
        self.hear(asked.step)
        delivered = await call
        self.read_journal()
        assert self.journal[delivered.lease.id] is not LeaseState.INTENT, "answered before it was journalled"
        assert isinstance(delivered.credential, VaultToken)
        assert delivered.credential.token.reveal() == secret_of(delivered.lease.id)
        assert delivered.lease.request_id == asked.request_id
        self.held[delivered.lease.id] = asked.step
        return str(delivered.lease.id)

    @precondition(lambda self: self.held)
    @rule(which=pick, turns=half_done)
    def succeed(self, which: int, turns: int | None) -> None:
        """A successor, once there may be one."""
        leases = {lease.id: lease for lease in self.leases()}
        lease_id = list(self.held)[which % len(self.held)]
        lease, step = leases[lease_id], self.held[lease_id]
        if self.clock.now() < successor_from(lease):
            self.heartbeat(0, everything=True)
            return
        asked = Asked(step=step, scope=lease.scope, request_id=new_id())
        self.ask(asked, turns, replaces=lease_id)

    def hear(self, step: Opened) -> None:
        if step.step_id in self.heard:  # still open, as far as anybody knows
            self.heard[step.step_id] = self.attentive

    @precondition(lambda self: self.steps)
    @rule(which=pick, everything=st.booleans())
    def heartbeat(self, which: int, *, everything: bool) -> None:
        for step in self.steps if everything else [self.a_step(which)]:
            held = [lease_id for lease_id, owner in self.held.items() if owner.step_id == step.step_id]
            self.hear(step)
            try:
                beat = self.run(self.broker.engine.heartbeat(step.who, step.handle, held))
            except BrokerError:
                continue
            for lease_id in beat.ended:
                del self.held[lease_id]

    @precondition(lambda self: self.held)
    @rule(which=pick, turns=half_done)
    def give_back(self, which: int, turns: int | None) -> None:
        lease_id = list(self.held)[which % len(self.held)]
        step = self.held.pop(lease_id)
        revoke = self.broker.engine.revoke_lease(
            step.who, request_id=new_id(), handle=step.handle, lease_id=lease_id, wait_seconds=0
        )
        self.called(revoke, turns)

    @precondition(lambda self: self.steps)
    @rule(which=pick, turns=half_done)
    def end(self, which: int, turns: int | None) -> None:
        step = self.a_step(which)
        work = self.broker.engine.end_step(step.who, request_id=new_id(), handle=step.handle, wait_seconds=0)
        self.called(work, turns)

    def called(self, work: Any, turns: int | None) -> None:
        self.calls.append(self.loop.create_task(work))
        self.run(passes(turns) if turns is not None else idle())
        if turns is not None:
            self.calls.append(self.loop.create_task(self.broker.engine._lane.step()))

    # --- what operators do ---

    @rule(frozen=st.sampled_from([False, False, True]))
    def freeze(self, *, frozen: bool) -> None:
        self.calls.append(self.loop.create_task(self.broker.freeze(frozen=frozen)))

    @rule(less=st.booleans())
    def reload(self, *, less: bool) -> None:
        """Grants go, and come back."""
        self.run(self.broker.load_map(LESS if less else MAP))

    # --- what the backend does ---

    @rule(up=st.booleans(), proves=st.booleans())
    def weather(self, *, up: bool, proves: bool) -> None:
        self.broker.outside.up, self.broker.outside.proves = up, proves
        self.stormy = self.clock.elapsed

    @precondition(lambda self: self.broker.outside.landing())
    @rule(which=pick, turns=half_done)
    def land(self, which: int, turns: int | None) -> None:
        """A create that was on its way arrives, perhaps long after its caller."""
        landing = self.broker.outside.landing()
        self.broker.outside.land(landing[which % len(landing)])
        self.run(passes(turns) if turns is not None else idle())

    # --- what time does ---

    @rule(ticks=st.sampled_from([1, 2, 3, 12, 90, 130]), beats=st.sampled_from([True, True, False]))
    def time_passes(self, ticks: int, *, beats: bool) -> None:
        for tick in range(ticks):
            if beats and tick % 4 == 0:
                self.heartbeat(0, everything=True)
            self.attentive += TICK
            self.run(self.broker.tick(TICK))
            self.sound()
            self.no_lease_outlives_its_life()

    @rule(seconds=st.sampled_from([1.0, 6.0]))
    def a_moment(self, seconds: float) -> None:
        self.attentive += seconds
        self.run(self.broker.tick(seconds))

    @rule(seconds=st.sampled_from([16.0, 60.0, 1300.0]), asleep=st.booleans())
    def stall(self, seconds: float, *, asleep: bool) -> None:
        """SIGSTOP, or the whole machine sleeps; the epoch runs out meanwhile."""
        (self.clock.suspend if asleep else self.clock.advance)(seconds)
        self.deaf_until = self.attentive
        self.run(self.broker.round())

    @rule(seconds=st.sampled_from([-86400, -3600, -40, 40, 3600, 86400]))
    def clock_is_set(self, seconds: int) -> None:
        self.clock.set_wall(self.clock.now() + timedelta(seconds=seconds))
        self.ahead += max(0, seconds)
        self.run(self.broker.round())

    @rule(seconds=st.sampled_from([3600, 86400]))
    def minted_by_a_clock_set_forward(self, seconds: int) -> None:
        """What only time ends lives until then, whatever has elapsed."""
        self.clock_is_set(seconds)
        for which in (0, 1):
            self.issue_and_claim(which, "timed", "answer")
        self.time_passes(130, beats=True)

    @rule()
    def clock_is_right_again(self) -> None:
        self.ahead += max(0.0, (self.clock.truth - self.clock.now()).total_seconds())
        self.clock.set_wall(self.clock.truth)
        self.run(self.broker.round())

    @rule()
    def five_seconds(self) -> None:
        """What began to be revoked while all was well is dead (I5); also what a crash left, which is due at once."""
        outside = self.broker.outside
        calm = outside.up and outside.proves and self.clock.elapsed - self.stormy >= CALM
        before = {lease_id for lease_id, since in self.dying.items() if since >= self.stormy + CALM}
        for _ in range(int(SOON * 2)):
            self.attentive += 0.5
            self.run(self.broker.tick(0.5))
            self.sound()
        if calm:
            assert not before & self.dying.keys(), "REVOKING for 5 s, though its provider answers"

    @rule(turns=half_done, reboot=st.booleans())
    def crash(self, turns: int | None, *, reboot: bool) -> None:
        """SIGKILL, also in the middle of something; then the next process."""
        self.calls.append(self.loop.create_task(self.broker.engine._lane.step()))
        self.run(passes(turns) if turns is not None else idle())
        self.run(self.broker.crash())
        self.collect()
        self.sound()
        if reboot:
            self.misled |= self.clock.now() != self.clock.truth
            self.clock.reboot()
        self.deaf_until = self.attentive
        self.run(self.broker.start())

    @precondition(lambda self: self.steps)
    @rule(which=pick, turns=st.integers(0, 25), what=st.sampled_from(["crash", "end", "freeze"]))
    def in_the_middle_of_a_mint(self, which: int, turns: int, what: str) -> None:
        self.issue(which, "plain", "answer", turns)
        if what == "crash":
            self.crash(0, reboot=False)
        elif what == "end":
            self.end(which, 3)
        else:
            self.freeze(frozen=True)
            self.run(passes(3))
            self.freeze(frozen=False)

    # --- what must be true all the time ---

    @invariant()
    def sound(self) -> None:
        self.collect()
        self.read_journal()
        leases = {lease.id: lease for lease in self.leases()}
        self.i1(leases)
        self.i2(leases)
        self.i3(leases)
        self.i4(leases)
        self.i5(leases)
        self.nobody_keeps_what_was_never_claimed(leases)
        self.nobody_is_ended_for_the_brokers_own_silence()

    def collect(self) -> None:
        """Calls end with an answer or a refusal, never with anything else."""
        done = [call for call in self.calls if call.done()]
        self.calls = [call for call in self.calls if not call.done()]
        for call in done:
            if not call.cancelled() and (error := call.exception()) and not isinstance(error, BrokerError):
                raise error

    def i1(self, leases: dict[str, Lease]) -> None:
        for lease_id in self.broker.outside.alive():
            assert lease_id in leases, "alive, and no row knows it"
            row = leases[lease_id]
            assert not row.state.terminal, f"alive, and its row says {row.state.value} ({row.evidence})"

    def i2(self, rows: dict[str, Lease]) -> None:
        twice = [name for name, count in Counter(self.broker.outside.mints).items() if count > 1]
        assert not twice, "minted twice under one id"
        requests = Counter((rows[made].agent, rows[made].request_id) for made in self.broker.outside.mints)
        assert not [request for request, count in requests.items() if count > 1], "a replay minted"

    def i3(self, leases: dict[str, Lease]) -> None:
        assert {lease_id: row.state for lease_id, row in leases.items()} == self.journal, "state without its record"

    def i4(self, leases: dict[str, Lease]) -> None:
        """Every credential that ever existed counts, also one that was found in doubt and killed."""
        minted = [leases[made] for made in self.broker.outside.mints]
        spent = Counter((lease.guard_key, lease.tier) for lease in minted if not lease.replaces)
        for (key, tier), count in spent.items():
            more, period = REFILL[tier]
            refilled = more * int((self.clock.elapsed + self.ahead) / period)
            assert count <= BUDGET[tier] * (1 + self.resets[key]) + refilled, (
                f"more mints of tier {tier.value} than the budget"
            )
        for row in leases.values():
            landed = row.id in self.broker.outside.mints
            assert row.state is not LeaseState.VOID or not landed, "charge given back for a credential that existed"

    def i5(self, leases: dict[str, Lease]) -> None:
        open_ = {step.id for step in self.look(lambda tx: tx.open_steps())}
        for lease in leases.values():
            if lease.step_id not in open_:
                assert lease.state is not LeaseState.ACTIVE, "ACTIVE after the end of its step"
                assert lease.state is not LeaseState.INTENT or lease.doomed_at, "to be delivered after the end"
            if lease.state is not LeaseState.REVOKING or lease.revocability is not Revocability.EXACT:
                self.dying.pop(lease.id, None)
            else:
                self.dying.setdefault(lease.id, self.clock.elapsed)
            if lease.state is LeaseState.EXPIRED:
                assert lease.revocability is Revocability.EXPIRY_ONLY, "expired where nothing enforces time"

    def nobody_keeps_what_was_never_claimed(self, leases: dict[str, Lease]) -> None:
        open_ = {row.id for row in leases.values() if row.state is LeaseState.ACTIVE and row.claimed_at is None}
        self.unclaimed = {lease_id: self.unclaimed.get(lease_id, self.attentive) for lease_id in open_}
        for since in self.unclaimed.values():
            waited = self.attentive - max(since, self.deaf_until)
            assert waited <= CLAIM + 3 * TICK, f"ACTIVE and unclaimed after {waited:g} s"

    def nobody_is_ended_for_the_brokers_own_silence(self) -> None:
        open_ = {step.id for step in self.look(lambda tx: tx.open_steps())}
        for step_id in self.heard.keys() - open_:
            quiet = self.attentive - max(self.heard.pop(step_id), self.deaf_until)
            step = self.broker.step(step_id)
            bound = START_WITHIN if step.started_at is None else SILENCE
            assert step.end_reason is not EndReason.SILENT or quiet >= bound, f"silent after {quiet:g} s"
        for step_id, heard in self.heard.items():
            quiet = self.attentive - max(heard, self.deaf_until)
            bound = START_WITHIN if self.broker.step(step_id).started_at is None else SILENCE
            assert quiet <= bound + 3 * TICK, f"open after {quiet:g} s of silence"

    def no_lease_outlives_its_life(self) -> None:
        """Whatever the wall clock is set to: what is ACTIVE is younger than its life. At a boot it is believed."""
        if self.misled:
            return
        for lease in self.leases():
            if lease.state is LeaseState.ACTIVE and lease.id in self.broker.outside.made:
                died = self.broker.outside.made[lease.id].born_at + (lease.expires_at - lease.intent_at)
                assert self.clock.truth < died + SLACK, "ACTIVE after its end"

    # --- how it ends ---

    def teardown(self) -> None:
        """All is well again: within the landing time everything is known, and nothing is alive."""
        try:
            self.come_to_rest()
        finally:
            self.run(self.broker.crash())
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)

    def come_to_rest(self) -> None:
        self.sound()
        self.clock.set_wall(self.clock.truth)
        self.broker.outside.up = self.broker.outside.proves = True
        self.run(self.broker.round())
        for step in self.steps:
            work = self.broker.engine.end_step(step.who, request_id=new_id(), handle=step.handle, wait_seconds=0)
            self.calls.append(self.loop.create_task(work))
        self.rest(REST)
        open_ = [row for row in self.leases() if not row.state.terminal and row.scope != "timed"]
        assert not open_, f"not at rest: {[(row.state.value, row.last_problem) for row in open_]}"
        self.clock.advance(self.ahead + 86400.0)  # what was minted by a clock set forward lives until then
        self.rest(100.0)
        assert not self.broker.outside.alive()
        left = [row for row in self.leases() if not row.state.terminal]
        assert not left, f"not at rest: {[(row.state.value, row.last_problem, row.expires_at) for row in left]}"

    def rest(self, seconds: float) -> None:
        for _ in range(int(seconds / TICK)):
            self.run(self.broker.tick(TICK))
            self.sound()

    # --- looking ---

    def leases(self) -> list[Lease]:
        return self.look(lambda tx: tx.leases_in(*LeaseState))

    def look(self, operation: Callable[[Tx], T]) -> T:
        return self.broker.look(operation)

    def told(self, record: dict[str, Any]) -> None:
        """One more record, in the journal's order."""
        if record["kind"] in {"GUARD_RESET", "BREAK_GLASS"}:
            self.resets[record["data"]["guard_key"]] += 1

    def read_journal(self) -> None:
        entries = self.broker.memory._state.journal
        for entry in entries[self.read :]:
            record = json.loads(entry.body)
            if record["kind"] in STATES:
                self.journal[record["lease_id"]] = STATES[record["kind"]]
            self.read += 1
            self.told(record)


@contextmanager
def quiet() -> Iterator[None]:
    """Thousands of broker lives would drown the one message that matters."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def explore(examples: int, *, machine: type[Machine] = Machine, seeded: bool = True, shrink: bool = True) -> None:
    with quiet():
        gc.collect()  # a coroutine that is finalized while hypothesis reads our source breaks the parser (CPython 3.11)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            derandomize=seeded,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def search(first: int, machine: type[Machine] = Machine) -> None:
    """Many short runs, from the seed `first` on: the examples of one run are much alike. Raises what the first that fails raises.

    A `first` at which it fails at once is known of each mutant; when the machine changes, one further on takes its place.
    """
    for number in range(first, first + RUNS):
        again = seed(number)(type(machine.__name__, (machine,), {}))
        explore(EACH, machine=again, shrink=False)


@pytest.mark.timeout(3600)
def test_whatever_happens_the_invariants_hold() -> None:
    explore(EXAMPLES or examples(100, long=350), seeded=not EXAMPLES)
