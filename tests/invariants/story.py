"""What the journal tells of approvals, freezes, orders and locks, held against itself in its own order.

Nothing here looks into the store: what a record says must follow from the records before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.model import LeaseState
from tests.invariants.outside import TrueClock
from tests.invariants.peopled import VALID

Record = Mapping[str, Any]
NAMES = ("agent", "workflow", "run", "scope", "provider")
LOCK = 3600.0  # seconds
LATE = 15.0  # seconds by which a record may be read late
NEEDED = 2  # operators

LIVE = (LeaseState.INTENT, LeaseState.IN_DOUBT, LeaseState.ACTIVE)


@dataclass(frozen=True, kw_only=True)
class Intent:
    """A lease, as it was meant."""

    names: Mapping[str, str]  # of NAMES
    step_id: str
    replaces: str
    approval: str

    def fits(self, wanted: Mapping[str, str]) -> bool:
        return all(self.names[name] == value for name, value in wanted.items() if name in NAMES)

    @property
    def key(self) -> tuple[str, ...]:
        """Of its approvals and of its budget: there is one step of each agent in a run."""
        return tuple(self.names[name] for name in ("agent", "workflow", "run", "scope"))


@dataclass(kw_only=True)
class Question:
    """To operators."""

    key: tuple[str, ...]
    role: str  # that would have been minted when it was asked
    asked_at: float  # elapsed seconds
    state: str = "PENDING"
    yes: set[str] = field(default_factory=set)
    given_at: float = 0.0
    lease: str = ""  # that has used it


@dataclass
class Story:
    """`state` and `doomed` are of leases, by id."""

    clock: TrueClock
    state: Mapping[str, LeaseState]
    role: str  # of the scope `signed` in the map in force; "" when nobody is given it
    loading: str  # of the map that is loaded next
    booted: float = -1.0  # elapsed seconds at the last boot: approvals begin their life anew at most
    intents: dict[str, Intent] = field(default_factory=dict)
    doomed: set[str] = field(default_factory=set)
    condemned: dict[str, str] = field(default_factory=dict)  # lease id → why it must die
    fresh: list[str] = field(default_factory=list)  # condemned by what is being read
    open: dict[str, str] = field(default_factory=dict)  # step id → workflow
    freezes: dict[str, tuple[int, Mapping[str, str]]] = field(default_factory=dict)  # id → how manieth, names
    broken: str = ""  # what did not follow: from there on nothing does
    frozen: int = 0  # freezes ever
    questions: dict[str, Question] = field(default_factory=dict)
    stopped: dict[str, tuple[str, tuple[str, ...], float]] = field(default_factory=dict)  # guard key → why, what, when

    def take(self, record: Record) -> None:
        tell = getattr(self, "_" + record["kind"].lower(), None)
        if tell is None or self.broken:
            return
        try:
            tell(record)
        except AssertionError as error:
            self.broken = str(error)
            raise

    def settle(self) -> None:
        """After whole transactions."""
        assert not self.broken, self.broken
        for lease_id in self.fresh:
            state, why = self.state[lease_id], self.condemned[lease_id]
            assert state is not LeaseState.ACTIVE, f"ACTIVE after {why}"
            if state in (LeaseState.INTENT, LeaseState.IN_DOUBT):
                assert lease_id in self.doomed, f"to be delivered after {why}"
        self.fresh.clear()
        for one in self.questions.values():
            assert one.state != "CONSUMED" or self.state[one.lease] is not LeaseState.VOID, "not given back with VOID"

    def frozen_by(self, lease_id: str) -> set[int]:
        """Which freezes keep it from being made or delivered."""
        return {number for number, names in self.freezes.values() if self.intents[lease_id].fits(names)}

    def _policy_loaded(self, record: Record) -> None:
        self.role = self.loading

    # --- steps and leases ---

    def _step_begun(self, record: Record) -> None:
        self.open[record["step_id"]] = record["workflow"]

    def _step_ended(self, record: Record) -> None:
        del self.open[record["step_id"]]
        self._condemn("the end of its step", lambda one: one.step_id == record["step_id"])

    def _lease_doomed(self, record: Record) -> None:
        self.doomed.add(record["lease_id"])

    def _lease_intent(self, record: Record) -> None:
        lease_id, told = record["lease_id"], record["data"]
        provider = "timed" if record["scope"] == "timed" else "fake"
        names = {name: record.get(name, provider) for name in NAMES}
        one = self.intents[lease_id] = Intent(
            names=names, step_id=record["step_id"], replaces=told["replaces"], approval=told["approval_id"]
        )
        assert record["step_id"] in self.open, "an intent of a step that is not open"
        assert not self.frozen_by(lease_id), "an intent while it is frozen"
        self._must_not_be_stopped(one)
        if record["scope"] != "signed":
            assert not one.approval, "approved, and it need not be"
        elif not (one.replaces and one.approval == self.intents[one.replaces].approval):
            self._use(lease_id, one)

    def _use(self, lease_id: str, one: Intent) -> None:
        asked = self.questions.get(one.approval)
        assert asked is not None, "an intent without an approval"
        assert asked.state == "APPROVED", f"an approval is used that is {asked.state}"
        assert asked.key == one.key, "an approval of something else is used"
        assert asked.role == self.role, "what was approved is not what is given"
        assert self.age(asked.given_at) <= VALID.total_seconds() + LATE, "an approval is used after its end"
        asked.state, asked.lease = "CONSUMED", lease_id

    def _lease_active(self, record: Record) -> None:
        lease_id = record["lease_id"]
        assert lease_id not in self.condemned, f"ACTIVE after {self.condemned[lease_id]}"
        assert not self.frozen_by(lease_id), "ACTIVE while it is frozen"

    def _must_not_be_stopped(self, one: Intent) -> None:
        for why, key, at in self.stopped.values():
            high = one.names["scope"] in ("danger", "signed")
            over = why == "GUARD_LOCKED" and not high and self.clock.elapsed - at >= LOCK - LATE
            assert key != one.key or over, f"an intent after {why}"

    def age(self, since: float) -> float:
        """Seconds that nothing can have hidden from the broker."""
        return self.clock.elapsed - max(since, self.booted)

    # --- what operators do ---

    def _frozen(self, record: Record) -> None:
        told = record["data"]
        self.frozen += 1
        self.freezes[told["freeze"]] = (self.frozen, told["selection"])
        states = (LeaseState.INTENT, LeaseState.ACTIVE) if told["revoke"] else (LeaseState.INTENT,)
        self._condemn("a freeze", lambda one: one.fits(told["selection"]), *states)

    def _unfrozen(self, record: Record) -> None:
        del self.freezes[record["data"]["freeze"]]

    def _revoke_ordered(self, record: Record) -> None:
        wanted = record["data"]["selection"]
        leases = wanted.get("leases")
        for lease_id, one in self.intents.items():
            if (leases is None or lease_id in leases) and one.fits(wanted) and self.state[lease_id] in LIVE:
                self._condemn_one(lease_id, "an operator's order")

    def _guard_reset(self, record: Record) -> None:
        self.stopped.pop(record["data"]["guard_key"], None)

    _break_glass = _guard_reset

    def _condemn(self, why: str, fits: Callable[[Intent], bool], *states: LeaseState) -> None:
        for lease_id, one in self.intents.items():
            if self.state[lease_id] in (states or LIVE) and fits(one):
                self._condemn_one(lease_id, why)

    def _condemn_one(self, lease_id: str, why: str) -> None:
        self.condemned.setdefault(lease_id, why)
        self.fresh.append(lease_id)

    # --- the guard ---

    def _guard_locked(self, record: Record) -> None:
        told = record["data"]
        assert record["step_id"] not in self.open, "a lock that does not end its step"
        if told["tier"] == "high":
            assert record["workflow"] not in self.open.values(), "a lock that does not end its workflow"
        else:
            assert set(told["steps"]) <= {record["step_id"]}, "a lock that ends another step"
        reached = {self.intents[lease_id].step_id for lease_id in told["leases"]}
        assert reached <= set(told["steps"]), "a lock that ends leases of a step that goes on"
        assert not any(self.state[lease_id] is LeaseState.ACTIVE for lease_id in told["leases"]), "ACTIVE after a lock"
        key = tuple(record[name] for name in ("agent", "workflow", "run", "scope"))
        self.stopped[told["guard_key"]] = (record["kind"], key, self.clock.elapsed)

    _guard_held = _guard_locked

    # --- approvals ---

    def _approval_requested(self, record: Record) -> None:
        key = tuple(record[name] for name in ("agent", "workflow", "run", "scope"))
        again = [one for one in self.questions.values() if one.key == key and one.state in ("PENDING", "APPROVED")]
        assert not again, "asked for twice"
        asked = Question(key=key, role=self.role, asked_at=self.clock.elapsed)
        self.questions[record["data"]["approval_id"]] = asked

    def _approval_voted(self, record: Record) -> None:
        asked, told = self.questions[record["data"]["approval_id"]], record["data"]
        assert asked.state == "PENDING", f"decided when it is {asked.state}"
        if told["approve"]:
            asked.yes.add(told["operator"])

    def _approval_given(self, record: Record) -> None:
        asked = self.questions[record["data"]["approval_id"]]
        assert len(asked.yes) >= NEEDED, "given without operators"
        assert asked.role == self.role, "given for what is no longer in the map"
        asked.state, asked.given_at = "APPROVED", self.clock.elapsed

    def _approval_denied(self, record: Record) -> None:
        self.questions[record["data"]["approval_id"]].state = "DENIED"

    def _approval_ended(self, record: Record) -> None:
        asked = self.questions[record["data"]["approval_id"]]
        assert asked.state in ("PENDING", "APPROVED"), f"ended when it is {asked.state}"
        asked.state = record["reason"]

    def _approval_returned(self, record: Record) -> None:
        asked, lease_id = self.questions[record["data"]["approval_id"]], record["data"]["lease_id"]
        assert (asked.state, asked.lease) == ("CONSUMED", lease_id), "given back by a lease that has not used it"
        assert self.state[lease_id] is LeaseState.VOID, f"given back by a lease that is {self.state[lease_id].value}"
        asked.state, asked.lease = "APPROVED", ""
        if self.booted >= asked.given_at:
            asked.given_at = self.clock.elapsed  # what was left is counted from here
