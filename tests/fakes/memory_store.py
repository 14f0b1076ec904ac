"""The store's behaviour without a disk, for fast tests of what stands on it. Held to it by tests/contract."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from broker.clock import Moment
from broker.errors import StoreConflict, StoreError
from broker.journal.chain import EMPTY, Entry, Head, link
from broker.journal.records import Kind, Record
from broker.model import (
    Bind,
    Certificate,
    EndReason,
    Evidence,
    JsonValue,
    Lease,
    LeaseState,
    Step,
    StepKey,
    StepState,
    Tier,
    past_deadline,
    past_expiry,
)
from broker.store.base import Control, Epoch, KeptMap, Request, RequestOutcome, Tx
from broker.store.guard import GuardClock, GuardRow, GuardState
from broker.store.halts import EVERYTHING
from broker.store.watched import Busy, Usual
from tests.fakes.memory_people import PeopleState, PeopleTx

T = TypeVar("T")

_REVOKABLE = (LeaseState.ACTIVE, LeaseState.INTENT, LeaseState.IN_DOUBT)
_DUE = (LeaseState.REVOKING, LeaseState.IN_DOUBT)
_ENDS_FROM = {
    LeaseState.REVOKED: (LeaseState.REVOKING,),
    LeaseState.EXPIRED: (LeaseState.REVOKING, LeaseState.IN_DOUBT, LeaseState.ACTIVE),
    LeaseState.VOID: (LeaseState.IN_DOUBT, LeaseState.INTENT),
}


@dataclass(frozen=True, kw_only=True)
class _Charge:
    key: str
    hour_key: str
    at: datetime
    shared: str | None
    returned: bool = False


@dataclass(kw_only=True)
class _State:
    """Values are frozen, so a copy of the containers is a copy of everything."""

    control: Control
    epochs: list[Epoch] = field(default_factory=list)
    steps: dict[str, Step] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    requests: dict[tuple[str, str], Request] = field(default_factory=dict)
    guard: dict[str, GuardRow] = field(default_factory=dict)
    guard_clock: list[GuardClock] = field(default_factory=list)  # one, or none
    charges: dict[str, _Charge] = field(default_factory=dict)
    journal: list[Entry] = field(default_factory=list)
    kept: dict[str, KeptMap] = field(default_factory=dict)  # one, or none
    people: PeopleState = field(default_factory=PeopleState)

    def copy(self) -> _State:
        return _State(**{name: value if name == "control" else value.copy() for name, value in vars(self).items()})


def _json(value: JsonValue) -> Any:
    """As it comes back from a database: plain, and nobody else's object."""
    return json.loads(json.dumps(value, allow_nan=False))


def _aware(*times: datetime | None) -> None:
    for at in times:
        if at is not None and at.tzinfo is None:
            raise TypeError("times are aware")


_Row = TypeVar("_Row", Step, Lease)


def _page(rows: list[_Row], after: str, limit: int) -> list[_Row]:
    """The newest first, from behind the one with this id."""
    newest = rows[::-1]
    start = next((number + 1 for number, row in enumerate(newest) if row.id == after), 0)
    return newest[start : start + limit]


class MemoryTx(PeopleTx):
    """`broker.store.base.Tx` over a private copy."""

    def __init__(self, state: _State, *, writable: bool) -> None:
        self._state = state
        self._people = state.people
        self._writable = writable

    def _w(self) -> _State:
        if not self._writable:
            raise StoreError("read-only")
        return self._state

    def must_be_quick(self, rows: int) -> None:
        """It has no thread to go to."""

    # control

    def control(self) -> Control:
        return replace(self._state.control, frozen=EVERYTHING in self._people.freezes)

    def add_key_fingerprint(self, kid: str, fingerprint: str) -> None:
        state = self._w()
        if state.control.key_fingerprints.get(kid, fingerprint) != fingerprint:
            raise StoreConflict("the key id is known by another fingerprint")
        state.control = replace(state.control, key_fingerprints={**state.control.key_fingerprints, kid: fingerprint})

    def forget_key_fingerprint(self, kid: str) -> None:
        state = self._w()
        left = {name: value for name, value in state.control.key_fingerprints.items() if name != kid}
        state.control = replace(state.control, key_fingerprints=left)

    def raise_generation(self) -> int:
        state = self._w()
        state.control = replace(state.control, policy_generation=state.control.policy_generation + 1)
        return state.control.policy_generation

    def set_anchored(self) -> None:
        self._w().control = replace(self._state.control, anchored=True)

    def keep_map(self, kept: KeptMap) -> None:
        state = self._w()
        _aware(kept.loaded_at)
        state.kept["map"] = replace(kept, contents=dict(kept.contents))
        if kept.serial > state.control.map_serial:
            state.control = replace(state.control, map_serial=kept.serial, map_manifest=kept.manifest_digest)

    def kept_map(self) -> KeptMap | None:
        return self._state.kept.get("map")

    # epoch

    def start_epoch(self, *, replica: str, boot_id: str, expires_boot: float, at: datetime, at_least: int = 1) -> int:
        last = self._w().epochs[-1].id if self._state.epochs else 0
        epoch = Epoch(id=max(last + 1, at_least), replica=replica, boot_id=boot_id, expires_boot=float(expires_boot))
        self._state.epochs.append(epoch)
        data = {"epoch": epoch.id, "replica": replica, "boot_id": boot_id}
        self._link(epoch.id, 0, Record(kind=Kind.GENESIS, at=at, data=data))
        return epoch.id

    def epoch(self) -> Epoch | None:
        return self._state.epochs[-1] if self._state.epochs else None

    def renew_epoch(self, epoch: int, expires_boot: float) -> bool:
        epochs = self._w().epochs
        if not epochs or epochs[-1].id != epoch:
            return False
        epochs[-1] = replace(epochs[-1], expires_boot=float(expires_boot))
        return True

    # steps

    def insert_step(self, step: Step) -> None:
        steps = self._w().steps
        _aware(step.opened_at, step.deadline_at, step.last_heartbeat_at, step.ended_at)
        for other in steps.values():
            same_attempt = (other.key, other.attempt) == (step.key, step.attempt)
            if same_attempt or other.id == step.id or other.handle_hash == step.handle_hash:
                raise StoreConflict("the step exists already")
        steps[step.id] = step

    def step(self, step_id: str) -> Step | None:
        return self._state.steps.get(step_id)

    def step_by_handle(self, handle_hash: bytes) -> Step | None:
        return next((step for step in self._state.steps.values() if step.handle_hash == handle_hash), None)

    def latest_attempt(self, key: StepKey) -> Step | None:
        attempts = [step for step in self._state.steps.values() if step.key == key]
        return max(attempts, key=lambda step: step.attempt, default=None)

    def beat(self, step_id: str, at: datetime) -> None:
        step = self._w().steps.get(step_id)
        if step is not None and step.state is StepState.OPEN:
            self._state.steps[step_id] = replace(step, last_heartbeat_at=max(step.last_heartbeat_at, at))

    def start_step(self, step_id: str, at: datetime, *, certificate: Certificate, bind: Bind) -> bool:
        step = self._w().steps.get(step_id)
        if step is None or step.state is StepState.ENDED or step.started_at is not None:
            return False
        self._state.steps[step_id] = replace(step, started_at=at, certificate=certificate, bind=bind)
        return True

    def end_step(self, step_id: str, at: datetime, reason: EndReason) -> bool:
        step = self._w().steps.get(step_id)
        if step is None or step.state is StepState.ENDED:
            return False
        self._state.steps[step_id] = replace(step, state=StepState.ENDED, ended_at=at, end_reason=reason)
        return True

    def open_steps(self) -> list[Step]:
        found = [step for step in self._state.steps.values() if step.state is StepState.OPEN]
        return sorted(found, key=lambda step: step.opened_at)

    def open_step_ids(self, now: Moment) -> Mapping[str, bool]:
        return {step.id: past_deadline(step, now) >= timedelta(0) for step in self.open_steps()}

    def steps_go_on_in(self, now: Moment) -> None:
        for step in self.open_steps():
            if step.boot_id != now.boot_id:
                left = min(step.deadline_at - now.wall, step.deadline_at - step.opened_at).total_seconds()
                self._w().steps[step.id] = replace(step, boot_id=now.boot_id, deadline_boot=now.boot + left)

    def open_steps_of(self, workflow: str, run: str = "") -> list[Step]:
        return [step for step in self.open_steps() if step.key.workflow == workflow and run in ("", step.key.run)]

    def step_page(self, *, after: str, limit: int, ended_too: bool) -> list[Step]:
        rows = list(self._state.steps.values()) if ended_too else self.open_steps()
        return _page(rows, after, limit)

    def open_step_count(self) -> int:
        return len(self.open_steps())

    # leases

    def insert_lease(self, lease: Lease) -> None:
        leases = self._w().leases
        _aware(lease.intent_at, lease.expires_at, lease.first_mint_at)
        if lease.state is not LeaseState.INTENT or lease.step_id not in self._state.steps:
            raise StoreError("a lease begins as INTENT, in a step")
        for other in leases.values():
            if other.id == lease.id or (other.agent, other.request_id) == (lease.agent, lease.request_id):
                raise StoreConflict("the lease exists already")
        leases[lease.id] = replace(lease, params=_json(lease.params), refs=_json(lease.refs))

    def lease(self, lease_id: str) -> Lease | None:
        return self._state.leases.get(lease_id)

    def leases_of(self, step_id: str, *states: LeaseState) -> list[Lease]:
        named = states or tuple(LeaseState)
        return [lease for lease in self._state.leases.values() if lease.step_id == step_id and lease.state in named]

    def leases_in(self, *states: LeaseState) -> list[Lease]:
        return [lease for lease in self._state.leases.values() if lease.state in states]

    def lease_page(self, state: LeaseState, *, after: int, limit: int, high: bool = False) -> tuple[list[Lease], int]:
        rows = enumerate(self._state.leases.values(), start=1)
        found = [
            (number, lease)
            for number, lease in rows
            if number > after and lease.state is state and (lease.tier is Tier.HIGH or not high)
        ][:limit]
        return [lease for _, lease in found], found[-1][0] if found else after

    def known_children(self, provider: str) -> frozenset[str]:
        alive = [lease for lease in self._state.leases.values() if not lease.state.terminal]
        return frozenset(
            child for lease in alive if lease.provider == provider for child in lease.refs.get("children", ())
        )

    def newest_leases(self, *, after: str, limit: int, ended_too: bool) -> list[Lease]:
        rows = [row for row in self._state.leases.values() if ended_too or not row.state.terminal]
        return _page(rows, after, limit)

    def lease_counts_by_provider(self) -> Mapping[tuple[str, LeaseState], int]:
        live = (row for row in self._state.leases.values() if not row.state.terminal)
        return Counter((row.provider, row.state) for row in live)

    def lease_counts(self) -> Mapping[LeaseState, int]:
        return Counter(lease.state for lease in self._state.leases.values() if not lease.state.terminal)

    def revoking_since(self, before: datetime) -> tuple[int, datetime | None]:
        since = [
            max(lease.revoking_at, lease.expires_at) if lease.revocability.ends_by_time else lease.revoking_at
            for lease in self.leases_in(LeaseState.REVOKING)
            if lease.revoking_at is not None
        ]
        found = [at for at in since if at <= before]
        return len(found), min(found, default=None)

    def due_leases(
        self, now: datetime, limit: int, *, without: Collection[str] = (), but: Collection[str] = ()
    ) -> list[Lease]:
        others = [one for one in self.leases_in(*_DUE) if one.id not in but]
        asked = [one for one in others if one.tier is Tier.HIGH or one.provider not in without]
        due = [(lease.next_try_at, lease) for lease in asked]
        ready = [(lease.tier is not Tier.HIGH, at, lease) for at, lease in due if at is not None and at <= now]
        return [lease for _, _, lease in sorted(ready, key=lambda found: found[:2])[:limit]]

    def leases_go_on_in(self, now: Moment) -> None:
        for lease in self.leases_in(LeaseState.ACTIVE):
            if lease.boot_id != now.boot_id:
                left = min(lease.expires_at - now.wall, lease.expires_at - lease.intent_at).total_seconds()
                self._change(lease.id, lambda _: True, boot_id=now.boot_id, expires_boot=now.boot + left)

    def make_due(self, at: datetime, *, provider: str = "", only: Collection[str] | None = None) -> int:
        waiting = [
            one
            for one in self.leases_in(*_DUE)
            if one.next_try_at is not None
            and one.next_try_at > at
            and provider in ("", one.provider)
            and (only is None or one.id in only)
        ]
        for lease in waiting:
            self._change(lease.id, lambda _: True, next_try_at=at)
        return len(waiting)

    def live_past(self, now: Moment) -> list[str]:
        past = [lease for lease in self.leases_in(LeaseState.ACTIVE) if past_expiry(lease, now) >= timedelta(0)]
        return [lease.id for lease in sorted(past, key=lambda lease: lease.expires_at)]

    def unclaimed(self) -> list[str]:
        active = [lease for lease in self.leases_in(LeaseState.ACTIVE) if lease.claimed_at is None]
        return [lease.id for lease in sorted(active, key=lambda lease: lease.active_at or lease.intent_at)]

    def _change(
        self,
        lease_id: str,
        allowed: Callable[[Lease], bool],
        refs: Mapping[str, JsonValue] | None = None,
        **changes: Any,
    ) -> bool:
        lease = self._w().leases.get(lease_id)
        if lease is None or not allowed(lease):
            return False
        _aware(*(value for value in changes.values() if isinstance(value, datetime)))
        self._state.leases[lease_id] = replace(lease, refs={**lease.refs, **_json(dict(refs or {}))}, **changes)
        return True

    def activate(self, lease_id: str, *, epoch: int, refs: Mapping[str, JsonValue], at: datetime) -> bool:
        lease = self._state.leases.get(lease_id)
        first = lease.first_mint_at if lease and lease.first_mint_at else at
        return self._change(
            lease_id,
            lambda row: row.state is LeaseState.INTENT and row.epoch == epoch and row.doomed_at is None,
            refs,
            state=LeaseState.ACTIVE,
            active_at=at,
            first_mint_at=first,
        )

    def note(self, lease_id: str, *, epoch: int, refs: Mapping[str, JsonValue]) -> bool:
        return self._change(lease_id, lambda row: row.state is LeaseState.INTENT and row.epoch == epoch, refs)

    def doom(self, lease_id: str, *, at: datetime, reason: EndReason) -> bool:
        return self._change(
            lease_id,
            lambda row: row.state in (LeaseState.INTENT, LeaseState.IN_DOUBT) and row.doomed_at is None,
            doomed_at=at,
            end_reason=self._reason(lease_id, reason),
        )

    def to_in_doubt(self, lease_id: str, *, at: datetime, problem: str) -> bool:
        return self._change(
            lease_id,
            lambda row: row.state is LeaseState.INTENT,
            state=LeaseState.IN_DOUBT,
            next_try_at=at,
            last_problem=problem,
        )

    def to_revoking(
        self, lease_id: str, *, at: datetime, reason: EndReason, refs: Mapping[str, JsonValue] | None = None
    ) -> bool:
        return self._change(
            lease_id,
            lambda row: row.state in _REVOKABLE,
            refs,
            state=LeaseState.REVOKING,
            revoking_at=at,
            next_try_at=at,
            end_reason=self._reason(lease_id, reason),
            attempts=0,
            last_problem="",
        )

    def _reason(self, lease_id: str, reason: EndReason) -> EndReason:
        lease = self._state.leases.get(lease_id)
        return lease.end_reason if lease and lease.end_reason else reason

    def to_ended(self, lease_id: str, state: LeaseState, *, evidence: Evidence, at: datetime) -> bool:
        if not state.terminal:
            raise ValueError("a lease ends in a terminal state")
        return self._change(
            lease_id,
            lambda row: row.state in _ENDS_FROM[state],
            state=state,
            evidence=evidence,
            ended_at=at,
            nonce=b"",
            next_try_at=None,
        )

    def defer(
        self, lease_id: str, *, next_try_at: datetime, problem: str, refs: Mapping[str, JsonValue] | None = None
    ) -> bool:
        lease = self._state.leases.get(lease_id)
        return self._change(
            lease_id,
            lambda row: row.state in _DUE,
            refs,
            attempts=lease.attempts + 1 if lease else 0,
            next_try_at=next_try_at,
            last_problem=problem,
        )

    def claim(self, lease_id: str, at: datetime) -> bool:
        return self._change(
            lease_id, lambda row: row.state is LeaseState.ACTIVE and row.claimed_at is None, claimed_at=at
        )

    def set_replaced_by(self, lease_id: str, successor: str) -> bool:
        return self._change(
            lease_id, lambda row: row.state is LeaseState.ACTIVE and row.replaced_by is None, replaced_by=successor
        )

    def clear_replaced_by(self, lease_id: str, successor: str) -> None:
        self._change(lease_id, lambda row: row.replaced_by == successor, replaced_by=None)

    # idempotency

    def request(self, caller: str, request_id: str) -> Request | None:
        return self._state.requests.get((caller, request_id))

    def insert_request(self, request: Request) -> None:
        key = (request.caller, request.request_id)
        if key in self._w().requests:
            raise StoreConflict("the request exists already")
        self._state.requests[key] = request

    def finish_request(
        self, caller: str, request_id: str, outcome: RequestOutcome, *, reason: str = "", message: str = ""
    ) -> None:
        found = self._w().requests.get((caller, request_id))
        if found is not None:
            self._state.requests[caller, request_id] = replace(found, outcome=outcome, reason=reason, message=message)

    def forget_requests(self, before: datetime) -> int:
        old = [key for key, request in self._w().requests.items() if request.keep_until < before]
        for key in old:
            del self._state.requests[key]
        return len(old)

    # guard

    def guard_row(self, key: str) -> GuardRow | None:
        return self._state.guard.get(key)

    def put_guard_row(self, row: GuardRow) -> None:
        _aware(row.until, row.refilled_at, *row.locked_at, *row.hour_exhausted_at)
        self._w().guard[row.key] = replace(
            row,
            about=_json(row.about),
            locked_at=tuple(row.locked_at),
            hour_exhausted_at=tuple(row.hour_exhausted_at),
        )

    def guard_page(self, *, after: str, limit: int, open_too: bool = False) -> list[GuardRow]:
        rows = (row for key, row in sorted(self._state.guard.items()) if key > after)
        return [row for row in rows if open_too or row.state is not GuardState.OPEN][:limit]

    def guard_counts(self) -> Mapping[GuardState, int]:
        return Counter(row.state for row in self._state.guard.values() if row.state is not GuardState.OPEN)

    def add_charge(self, *, lease_id: str, key: str, hour_key: str, at: datetime, shared: str | None = None) -> None:
        if lease_id in self._w().charges:
            raise StoreConflict("the lease is charged already")
        self._state.charges[lease_id] = _Charge(key=key, hour_key=hour_key, at=at, shared=shared)

    def return_charge(self, lease_id: str) -> bool:
        charge = self._w().charges.get(lease_id)
        if charge is None or charge.returned:
            return False
        self._state.charges[lease_id] = replace(charge, returned=True)
        return True

    def forget_charges(self, before: datetime, limit: int) -> int:
        old = sorted((one.at, lease_id) for lease_id, one in self._w().charges.items() if one.at < before)[:limit]
        for _, lease_id in old:
            del self._state.charges[lease_id]
        return len(old)

    def count_charges(self, hour_key: str, since: datetime) -> int:
        charges = self._state.charges.values()
        return sum(charge.hour_key == hour_key and charge.at >= since and not charge.returned for charge in charges)

    def nth_charge(self, n: int, *, hour_key: str, since: datetime) -> datetime | None:
        return _nth(n, since, (one for one in self._state.charges.values() if one.hour_key == hour_key))

    def nth_shared(self, n: int, *, shared: str, since: datetime) -> datetime | None:
        return _nth(n, since, (one for one in self._state.charges.values() if one.shared == shared))

    def guard_clock(self) -> GuardClock | None:
        return next(iter(self._state.guard_clock), None)

    def set_guard_clock(self, clock: GuardClock) -> None:
        _aware(clock.at, clock.wall)
        self._w().guard_clock = [clock]

    # watched

    def stuck_leases(self, doubtful_since: datetime) -> Mapping[tuple[str, LeaseState], int]:
        return Counter(
            (lease.provider, lease.state)
            for lease in self._state.leases.values()
            if lease.state in _DUE
            and (
                lease.refs.get("alarmed") or (lease.state is LeaseState.IN_DOUBT and lease.intent_at <= doubtful_since)
            )
        )

    def busy_keys(self, since: datetime, *, at_least: int) -> list[Busy]:
        charges = sorted(self._state.charges.values(), key=lambda charge: charge.at)
        recent: dict[str, list[str]] = {}
        for charge in charges:
            if charge.at >= since and not charge.returned:
                recent.setdefault(charge.hour_key, []).append(charge.key)
        return [
            Busy(hour_key=name, guard_key=keys[0], charges=len(keys))
            for name, keys in sorted(recent.items())
            if len(keys) >= at_least
        ]

    def usual_charges(self, hour_key: str, *, since: datetime, until: datetime) -> Usual:
        times = [
            charge.at.timestamp() // 3600
            for charge in self._state.charges.values()
            if charge.hour_key == hour_key and since <= charge.at < until and not charge.returned
        ]
        return Usual(charges=len(times), active_hours=len(set(times)))

    # journal

    def append(self, record: Record) -> Head:
        head = self.journal_head()
        self._w()
        if head is None:
            raise StoreError("the journal has no chain yet: no epoch was started")
        return self._link(head.chain, head.seq + 1, record)

    def _link(self, chain: int, seq: int, record: Record) -> Head:
        head, body = self.journal_head(), record.body()
        prev = head.hash if head else EMPTY
        entry = Entry(chain=chain, seq=seq, body=body, prev=prev, hash=link(prev, chain, seq, body))
        self._state.journal.append(entry)
        return Head(chain=chain, seq=seq, hash=entry.hash)

    def journal_head(self) -> Head | None:
        if not self._state.journal:
            return None
        last = self._state.journal[-1]
        return Head(chain=last.chain, seq=last.seq, hash=last.hash)

    def journal(self, *, after: tuple[int, int] | None = None, limit: int = 1000) -> list[Entry]:
        start = after or (-1, -1)
        return [entry for entry in self._state.journal if (entry.chain, entry.seq) > start][:limit]

    def journal_of_run(self, run: str, *, limit: int) -> list[Entry]:
        told = [(entry, json.loads(entry.body)) for entry in self._state.journal]
        steps = {body["step_id"] for _, body in told if body.get("run") == run and "step_id" in body}
        return [entry for entry, body in told if body.get("run") == run or body.get("step_id") in steps][:limit]

    def journal_of_step(self, step_id: str, *, limit: int) -> list[Entry]:
        return [entry for entry in self._state.journal if json.loads(entry.body).get("step_id") == step_id][:limit]

    def last_of_journal(self, limit: int) -> list[Entry]:
        return self._state.journal[-limit:] if limit else []

    def journal_of_reference(self, reference_id: str, *, limit: int) -> list[Entry]:
        found = [one for one in self._state.journal if json.loads(one.body).get("reference_id") == reference_id]
        return found[:limit]

    def denial(self, reference_id: str) -> Entry | None:
        found = (entry for entry in self._state.journal if json.loads(entry.body).get("reference_id") == reference_id)
        return next(found, None)


class MemoryStore:
    """`broker.store.base.Store`. Durable as long as the object; a second view of it is a restarted daemon."""

    def __init__(self) -> None:
        self._state = _State(
            control=Control(installation=secrets.token_hex(16), key_fingerprints={}, policy_generation=0, frozen=False)
        )
        self._closed = False
        self.sparing = False

    async def write(self, operation: Callable[[Tx], T], *, quick: bool = False) -> T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        if self._closed:
            raise StoreError("the store is closed")
        # Not at once: callers must see, as with a thread, that others run meanwhile, and that a cancelled
        # caller's operation is carried out all the same.
        loop.call_soon(self._apply, operation, answer)
        return await answer

    def _apply(self, operation: Callable[[Tx], T], answer: asyncio.Future[T]) -> None:
        state = self._state.copy()
        try:
            result = operation(MemoryTx(state, writable=True))
        except Exception as error:  # noqa: BLE001 - it is the caller's, and is raised there
            if not answer.done():
                answer.set_exception(RuntimeError("StopIteration") if isinstance(error, StopIteration) else error)
            return
        self._state = state
        if not answer.done():
            answer.set_result(result)

    async def read(self, operation: Callable[[Tx], T], *, quick: bool = False) -> T:
        if self._closed:
            raise StoreError("the store is closed")
        await asyncio.sleep(0)
        return operation(MemoryTx(self._state, writable=False))

    def look(self, operation: Callable[[Tx], T]) -> T:
        """A read that gives nobody else a turn."""
        return operation(MemoryTx(self._state, writable=False))

    def forsake(self) -> None:
        """It leaves nothing behind anyway."""

    async def close(self) -> None:
        await asyncio.sleep(0)  # what was queued runs first
        self._closed = True

    def reopened(self) -> MemoryStore:
        """As the next daemon finds it."""
        store = MemoryStore()
        store._state = self._state
        return store


def _nth(n: int, since: datetime, charges: Iterable[_Charge]) -> datetime | None:
    newest = sorted((one.at for one in charges if one.at >= since and not one.returned), reverse=True)
    return newest[n - 1] if len(newest) >= n else None
