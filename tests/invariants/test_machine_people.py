"""The machine of test_machine with people in it: approvals, freezes, the kill switch, resets, and locks that end a run.

What the backend made and what the journal tells (`story`) is held against what operators said.
`STEPCRED_MACHINE=20000` sets the number of examples, and takes other ones each time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from broker.alert import AlertRule
from broker.guard.timing import guard_time
from broker.leases.ids import new_freeze_id
from broker.leases.selection import Selection
from broker.leases.successors import successor_from
from broker.model import Lease, LeaseState, Tier
from broker.store.approvals import OPEN, Approval
from broker.store.base import Tx
from broker.store.guard import GuardRow, GuardState
from broker.store.halts import Freeze
from tests.fakes.world import ANN, LOAD, OTHER, new_id
from tests.invariants.driven import TICK, idle, passes
from tests.invariants.peopled import CHANGED, FULL, LESS, OPERATORS, PENDING, ROLES, VALID, Peopled
from tests.invariants.story import NAMES, Story
from tests.invariants.test_machine import BUDGET, EXAMPLES, Asked, Machine, Opened, explore, half_done, pick
from tests.support.examples import examples

HOUR = 3600.0  # seconds
HOURLY = {"rationed": 1, "danger": 12, "signed": 12, "signed-anew": 12}  # by role; `rationed` over all agents
MINTING = 15.0  # seconds between a charge and what is sent, and a few looks
MAPS = {FULL: ROLES[0], CHANGED: ROLES[1], LESS: ""}
SCOPES = {LOAD: ("plain", "elevated", "danger", "timed", "signed", "rationed"), OTHER: ("plain", "rationed")}

how_it_goes = st.sampled_from(["answer", "answer", "refuse", "lose-request", "lose-answer", "hang"])
some_name = st.sampled_from(NAMES)


class PeopledMachine(Machine):
    """Whoever is asked, asks and orders at any moment, also in the middle of a mint."""

    broker: Peopled
    broker_of = Peopled
    scopes = SCOPES

    def __init__(self) -> None:
        self.story: Story | None = None
        self.looked = 0  # records
        super().__init__()

    # --- what callers do ---

    def a_step(self, which: int) -> Opened:
        """Mostly one of those who may have more than `plain`."""
        mine = [step for step in self.steps if step.step_id in self.heard and step.who.spiffe_id == LOAD]
        return mine[-1 - which % len(mine)] if mine and which % 4 != 3 else super().a_step(which)

    @rule(run=st.sampled_from(["r1", "r2"]))
    def all_is_well(self, run: str) -> None:
        """Else most of what is asked for would be refused, sooner or later."""
        self.weather(up=True, proves=True)
        self.thaw(None)
        if self.broker.map_text != FULL:
            self.load(FULL)
        self.begin(LOAD, run)
        self.begin(OTHER, run)

    @rule(run=st.sampled_from(["r1", "r2"]), scope=st.sampled_from(["danger", "danger", "elevated"]))
    def a_step_runs_away(self, run: str, scope: str) -> None:
        """One of its run, up to the lock; the other one, whose certificate binds the same workflow, has done nothing."""
        self.all_is_well(run)
        self.issue(3, "plain", "answer", None)
        for _ in range(BUDGET[Tier.HIGH if scope == "danger" else Tier.ELEVATED] + 1):
            self.issue(0, scope, "answer", None)
            if scope == "elevated":
                self.time_passes(12, beats=True)  # its cool-downs

    @precondition(lambda self: self.steps)
    @rule(which=pick, how=how_it_goes, turns=half_done)
    def ask_for_what_people_approve(self, which: int, how: str, turns: int | None) -> None:
        self.issue(which, "signed", how, turns)

    @precondition(lambda self: self.steps)
    @rule(which=pick, how=how_it_goes, turns=half_done)
    def ask_for_what_all_share(self, which: int, how: str, turns: int | None) -> None:
        self.issue(which, "rationed", how, turns)

    @rule(how=how_it_goes, turns=half_done)
    def it_is_approved_and_used(self, how: str, turns: int | None) -> None:
        self.all_is_well("r1")
        self.approved(0)
        self.issue(0, "signed", how, turns)

    @precondition(lambda self: self.steps)
    @rule(which=pick, ticks=st.sampled_from([12, 90, 130]))
    def it_is_approved_and_waits(self, which: int, ticks: int) -> None:
        self.approved(which)
        self.time_passes(ticks, beats=True)
        self.issue(which, "signed", "answer", None)

    @precondition(lambda self: self.steps)
    @rule(which=pick)
    def it_is_used_by_two_at_once(self, which: int) -> None:
        self.approved(which)
        self.issue(which, "signed", "answer", 0)
        self.issue(which, "signed", "answer", None)

    @rule(seconds=st.sampled_from([-86400, -3600, 3600]))
    def it_is_approved_and_the_machine_boots(self, seconds: int) -> None:
        """By another clock than before."""
        self.all_is_well("r1")
        self.approved(0)
        self.clock_is_set(seconds)
        self.crash(None, reboot=True)
        self.time_passes(130, beats=True)

    @rule(seconds=st.sampled_from([-86400, -3600, 3600]))
    def it_is_counted_and_the_machine_boots(self, seconds: int) -> None:
        """By the right clock, and it was counted by a wrong one."""
        self.clock_is_set(seconds)
        self.all_want_what_they_share("answer", None)
        self.clock_is_right_again()
        self.crash(None, reboot=True)
        self.all_want_what_they_share("answer", None)

    @rule(turns=half_done, reboot=st.booleans())
    def crash(self, turns: int | None, *, reboot: bool) -> None:
        if reboot:
            self.told_so_far.booted = self.clock.elapsed
        super().crash(turns, reboot=reboot)

    @rule(to=st.sampled_from([CHANGED, CHANGED, FULL, LESS]), turns=half_done)
    def the_map_moves_in_between(self, to: str, turns: int | None) -> None:
        self.all_is_well("r1")
        self.approved(0)
        self.load(to)
        self.issue(0, "signed", "answer", turns)

    @rule(how=how_it_goes, turns=half_done)
    def all_want_what_they_share(self, how: str, turns: int | None) -> None:
        self.all_is_well("r1")
        for which in (0, 3, 0):
            self.issue(which, "rationed", how, turns)

    @rule(to=st.sampled_from([FULL, FULL, CHANGED]), turns=half_done)
    def a_long_step_of_what_people_approve(self, to: str, turns: int | None) -> None:
        """A successor is asked for; perhaps when the map is another one by then."""
        self.it_is_approved_and_used("answer", None)
        self.time_passes(84, beats=True)
        if to != FULL:
            self.load(to)
        mine = [row for row in self.leases() if row.scope == "signed" and row.id in self.held]
        for row in mine:
            if row.state is LeaseState.ACTIVE and self.clock.now() >= successor_from(row):
                asked = Asked(step=self.held[row.id], scope="signed", request_id=new_id())
                self.ask(asked, turns, replaces=row.id)

    def approved(self, which: int) -> None:
        """Asked for, and both say yes."""
        self.issue(which, "signed", "answer", None)
        for who in OPERATORS[:2]:
            for approval in self.waiting():
                self.order(self.decide(approval, who, approve=True), None)

    async def deliver(self, asked: Asked, call: Any) -> str:
        """Nothing that was frozen when it was asked for, and is when it is delivered."""
        self.read_journal()
        before = {number for number, _ in self.told_so_far.freezes.values()}
        lease_id = await super().deliver(asked, call)
        assert not before & self.told_so_far.frozen_by(lease_id), "delivered while it is frozen"
        return lease_id

    # --- what operators do ---

    @rule(to=st.sampled_from([FULL, FULL, CHANGED, LESS]))
    def reload(self, to: str) -> None:
        self.load(to)

    def load(self, text: str) -> None:
        self.told_so_far.loading = MAPS[text]
        self.run(self.broker.load_map(text))

    @precondition(lambda self: self.waiting())
    @rule(which=pick, who=st.sampled_from(OPERATORS), approve=st.sampled_from([True, True, False]), turns=half_done)
    def vote(self, which: int, who: str, turns: int | None, *, approve: bool) -> None:
        open_ = self.waiting()
        self.order(self.decide(open_[which % len(open_)], who, approve=approve), turns)

    def waiting(self) -> list[Approval]:
        return self.look(lambda tx: tx.approvals(*OPEN))

    def decide(self, approval: Approval, who: str, *, approve: bool) -> Any:
        return self.broker.house.decide(who, approval, approve=approve, code="")

    @precondition(lambda self: self.leases() and len(self.told_so_far.freezes) < 2)
    @rule(which=pick, by=some_name, revoke=st.booleans(), turns=half_done)
    def freeze_some(self, which: int, by: str, turns: int | None, *, revoke: bool) -> None:
        freeze = Freeze(id=new_freeze_id(), by="ann", reason="drill", at=self.clock.now(), **self.named(which, by))
        self.order(self.broker.engine.orders.freeze(freeze, ANN, revoke=revoke), turns)

    @rule(turns=half_done)
    def thaw(self, turns: int | None) -> None:
        for freeze_id in list(self.told_so_far.freezes):
            self.order(self.broker.engine.orders.unfreeze(freeze_id, ANN), turns)

    @precondition(lambda self: self.steps)
    @rule(which=pick, by=some_name, before=st.integers(0, 25), after=st.integers(0, 25))
    def frozen_in_the_middle_of_a_mint(self, which: int, by: str, before: int, after: int) -> None:
        """And lifted again, perhaps before the mint has settled."""
        self.issue(which, "plain", "answer", before)
        self.freeze_some(0, by, after, revoke=False)
        self.thaw(None)

    @rule(by=some_name)
    def frozen_before_it_is_asked_for_again(self, by: str) -> None:
        self.all_is_well("r1")
        self.issue(0, "plain", "answer", None)
        self.freeze_some(0, by, None, revoke=False)
        self.ask_again(0, None)

    @rule(by=some_name, how=st.sampled_from(["answer", "hang"]), turns=st.integers(0, 25))
    def killed_in_the_middle_of_a_mint(self, by: str, how: str, turns: int) -> None:
        self.all_is_well("r1")
        self.issue(0, "plain", how, turns)
        self.kill(0, by, None, end_steps=False)

    @precondition(lambda self: self.leases())
    @rule(which=pick, by=st.sampled_from([*NAMES, "lease", "everything"]), turns=half_done, end_steps=st.booleans())
    def kill(self, which: int, by: str, turns: int | None, *, end_steps: bool) -> None:
        if by == "everything":
            selection = Selection(everything=True)
        elif by == "lease":
            selection = Selection(leases=frozenset({self.some_lease(which).id}))
        else:
            selection = replace(Selection(), **self.named(which, by))
        self.order(self.broker.engine.orders.revoke(selection, ANN, end_steps=end_steps), turns)

    @precondition(lambda self: self.guard_rows())
    @rule(which=pick, who=st.sampled_from(OPERATORS), alone=st.booleans(), turns=half_done)
    def open_again(self, which: int, who: str, turns: int | None, *, alone: bool) -> None:
        """A key of the guard; one that is locked or held, if there is one."""
        rows = self.guard_rows()
        rows = [row for row in rows if row.state in (GuardState.LOCKED, GuardState.HELD)] or rows
        house, key = self.broker.house, rows[which % len(rows)].key
        work = house.desk.reset(house.caller(who), key, reason="drill", code="", break_glass=alone)
        self.order(work, turns)

    def order(self, work: Any, turns: int | None) -> None:
        self.calls.append(self.loop.create_task(work))
        self.run(passes(turns) if turns is not None else idle())
        self.read_journal()

    def some_lease(self, which: int) -> Lease:
        leases = self.leases()
        return leases[-1 - which % len(leases)]

    def named(self, which: int, by: str) -> dict[str, Any]:
        lease = self.some_lease(which)
        self.read_journal()
        return {by: self.told_so_far.intents[lease.id].names[by]}

    def guard_rows(self) -> list[GuardRow]:
        return self.look(lambda tx: tx.guard_page(after="", limit=200, open_too=True))

    # --- what must be true all the time ---

    @property
    def told_so_far(self) -> Story:
        if self.story is None:
            self.story = Story(clock=self.clock, state=self.journal, role=ROLES[0], loading=ROLES[0])
        return self.story

    def told(self, record: dict[str, Any]) -> None:
        super().told(record)
        self.told_so_far.take(record)

    def read_journal(self) -> None:
        super().read_journal()
        self.told_so_far.settle()

    @invariant()
    def sound(self) -> None:
        super().sound()
        if self.looked != self.read:
            self.looked = self.read
            self.as_people_said()
            self.whoever_is_stopped_is_known()
            self.no_more_in_an_hour()

    def as_people_said(self) -> None:
        """The backend has made nothing that was not approved: for this step, this scope, and with these powers."""
        story, born = self.told_so_far, self.broker.outside.born
        questions = {(one.key, one.role): 0 for one in story.questions.values()}
        for one in story.questions.values():
            questions[one.key, one.role] += len(one.yes) >= 2
        made = Counter[Any]()
        for lease_id, sent in born.items():
            order, role = sent.order, sent.order.ref.params["role"]
            if role in ROLES:
                key = (order.agent, order.workflow, order.run, "signed")
                assert questions.get((key, role)), "minted, and nobody has approved it"
                approval = story.questions.get(story.intents[lease_id].approval)
                assert approval is not None, "minted without an approval"
                assert (approval.key, approval.role) == (key, role), "minted by the approval of something else"
                made[key, role] += not story.intents[lease_id].replaces
        for what, count in made.items():
            assert count <= questions[what], "minted more often than it was approved"

    @invariant()
    def the_store_is_as_told(self) -> None:
        self.read_journal()
        rows = self.look(lambda tx: tx.approvals(limit=1000))
        told = {approval_id: one.state for approval_id, one in self.told_so_far.questions.items()}
        assert {row.id: row.state.value for row in rows} == told, "an approval without its record"
        freezes = {freeze.id for freeze in self.look(lambda tx: tx.freezes())}
        assert freezes == set(self.told_so_far.freezes), "a freeze without its record"

    def whoever_is_stopped_is_known(self) -> None:
        self.look(self._alerts_fire)
        for key, (why, _, _) in self.told_so_far.stopped.items():
            row = self.look(lambda tx, key=key: tx.guard_row(key))  # type: ignore[misc]
            assert row is not None
            assert why != "GUARD_HELD" or row.state is GuardState.HELD, "a hold that nobody has opened is gone"

    def _alerts_fire(self, tx: Tx) -> None:
        firing = {(row.alert.rule, row.alert.labels.get("guard_key")) for row in tx.alerts()}
        now = guard_time(tx, self.clock.moment())
        for row in tx.guard_page(after="", limit=200):
            if row.state is GuardState.HELD:
                assert (AlertRule.GUARD_HELD, row.key) in firing, "held, and nobody is told"
            elif row.state is GuardState.LOCKED and row.until is not None and now < row.until:
                assert (AlertRule.GUARD_LOCKED, row.key) in firing, "locked, and nobody is told"

    def no_more_in_an_hour(self) -> None:
        """Of what all share, and of what one workload may have; a reset of either multiplies nothing."""
        story, times = self.told_so_far, dict[tuple[str, str], list[float]]()
        for lease_id, sent in self.broker.outside.born.items():
            role = str(sent.order.ref.params["role"])
            if role in HOURLY and not story.intents[lease_id].replaces:
                who = "" if role == "rationed" else sent.order.agent
                times.setdefault((role, who), []).append(sent.at)
        for (role, _), found in times.items():
            found.sort()
            for first, last in zip(found, found[HOURLY[role] :], strict=False):
                assert last - first >= HOUR - MINTING, f"more of {role} than there is in an hour"

    def no_lease_outlives_its_life(self) -> None:
        super().no_lease_outlives_its_life()
        story, slack = self.told_so_far, 4 * TICK
        for one in story.questions.values():
            if one.state == "PENDING":
                assert story.age(one.asked_at) <= PENDING.total_seconds() + slack, "waits for ever"
            if one.state == "APPROVED":
                assert story.age(one.given_at) <= VALID.total_seconds() + slack, "approved for ever"


@pytest.mark.timeout(3600)
def test_whatever_people_do_the_invariants_hold() -> None:
    explore(EXAMPLES or examples(30, long=100), machine=PeopledMachine, seeded=not EXAMPLES)
