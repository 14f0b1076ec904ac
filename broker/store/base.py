"""What a store must do. The contract suite (tests/contract) runs over every implementation.

A `Tx` is one operation's view of the database. `Store.write` runs an operation in a SAVEPOINT of its
own inside a group commit: an exception undoes this operation only, journal included, and is raised to
the caller; a result is returned only after COMMIT is durable.
Operations are pure Python over `tx` and never await. A *quick* one touches a few rows by their keys, however
large the database is: it may run on the event loop, which stands still meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol, TypeVar

from broker.clock import Moment
from broker.journal.chain import Entry, Head
from broker.journal.records import Record
from broker.model import Bind, Certificate, EndReason, Evidence, JsonValue, Lease, LeaseState, Step, StepKey
from broker.store.approvals import ApprovalsTx
from broker.store.guard import GuardTx
from broker.store.halts import HaltsTx
from broker.store.notices import NoticesTx
from broker.store.watched import WatchedTx

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """The one row about the database as a whole."""

    installation: str  # random, made with the database; part of every token id
    key_fingerprints: Mapping[str, str]  # of the mint keys ever used with it
    policy_generation: int
    frozen: bool  # everything is: a freeze of id EVERYTHING exists
    anchored: bool = False  # the journal's head was written to a file elsewhere
    map_serial: int = 0  # the highest of any scope map's manifest that was in force
    map_manifest: str = ""  # the digest of that manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """A broker process's right to write. The row with the greatest id is the current one."""

    id: int
    replica: str
    boot_id: str
    expires_boot: float  # seconds of CLOCK_BOOTTIME


class RequestOutcome(Enum):
    """How far a mutating request came."""

    PENDING = "PENDING"
    DONE = "DONE"
    FAILED = "FAILED"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Idempotency record of one mutating call, unique per (caller, request_id)."""

    caller: str  # SPIFFE ID
    request_id: str
    method: str
    payload_hash: bytes
    created_at: datetime
    keep_until: datetime
    step_id: str = ""
    lease_id: str = ""
    outcome: RequestOutcome = RequestOutcome.PENDING
    reason: str = ""  # of a failure
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptMap:
    """The last good scope map, whole."""

    root: str  # the name of its root file
    contents: Mapping[str, bytes]  # of every file, by name
    digest: str
    generation: int
    loaded_at: datetime
    serial: int = 0  # of its manifest; 0 = not signed
    manifest_digest: str = ""
    signers: tuple[str, ...] = ()
    manifest: bytes = b""  # with its signatures


class Tx(ApprovalsTx, GuardTx, HaltsTx, NoticesTx, WatchedTx, Protocol):
    """One operation's view. Writing methods raise StoreError inside `Store.read`."""

    def must_be_quick(self, rows: int) -> None:
        """Call before changing so many rows more: in a quick operation too many undo it, and the store runs it as another.

        So may a query that finds too many. What an operation does beside `tx` it may therefore do twice.
        """
        ...

    # control
    def control(self) -> Control: ...
    def add_key_fingerprint(self, kid: str, fingerprint: str) -> None: ...
    def forget_key_fingerprint(self, kid: str) -> None: ...
    def raise_generation(self) -> int:
        """Raise policy_generation by one and return it."""
        ...

    def set_anchored(self) -> None: ...

    def keep_map(self, kept: KeptMap) -> None:
        """In the place of the one before; `map_serial` rises to its serial with its digest, and never falls."""
        ...

    def kept_map(self) -> KeptMap | None: ...

    # epoch
    def start_epoch(self, *, replica: str, boot_id: str, expires_boot: float, at: datetime, at_least: int = 1) -> int:
        """Insert the next epoch and write the GENESIS record that begins its journal chain.

        `at_least`: the smallest id it may have, above those that a restored database has forgotten.
        """
        ...

    def epoch(self) -> Epoch | None:
        """The current one: the greatest id."""
        ...

    def renew_epoch(self, epoch: int, expires_boot: float) -> bool:
        """False when it is no longer the current one."""
        ...

    # steps
    def insert_step(self, step: Step) -> None: ...
    def step(self, step_id: str) -> Step | None: ...
    def step_by_handle(self, handle_hash: bytes) -> Step | None: ...
    def latest_attempt(self, key: StepKey) -> Step | None: ...
    def beat(self, step_id: str, at: datetime) -> None:
        """Record a heartbeat; never moves it back."""
        ...

    def start_step(self, step_id: str, at: datetime, *, certificate: Certificate, bind: Bind) -> bool:
        """The agent's own first call: sets started_at, and what it is held to, once, on an open step."""
        ...

    def end_step(self, step_id: str, at: datetime, reason: EndReason) -> bool:
        """False when it had ended already."""
        ...

    def open_steps(self) -> list[Step]: ...
    def open_step_ids(self, now: Moment) -> Mapping[str, bool]:
        """Of every open step: is it at or past its deadline (`past_deadline`)?"""
        ...

    def open_steps_of(self, workflow: str, run: str = "") -> list[Step]:
        """Of one workflow, or of one run of it."""
        ...

    def step_page(self, *, after: str, limit: int, ended_too: bool) -> list[Step]:
        """The newest first; `after`: the id of the last one of the page before."""
        ...

    def steps_go_on_in(self, now: Moment) -> None:
        """Open steps of another boot: what they have left, by the wall clock, is counted in this one from now on."""
        ...

    def open_step_count(self) -> int: ...

    # leases
    def insert_lease(self, lease: Lease) -> None:
        """State INTENT. Raises StoreConflict on a second lease of the same (agent, request_id)."""
        ...

    def lease(self, lease_id: str) -> Lease | None: ...
    def leases_of(self, step_id: str, *states: LeaseState) -> list[Lease]:
        """In the order of their intents; of any state when none is named."""
        ...

    def leases_in(self, *states: LeaseState) -> list[Lease]: ...
    def lease_page(self, state: LeaseState, *, after: int, limit: int, high: bool = False) -> tuple[list[Lease], int]:
        """Leases of a state in the order of their intents; `high`: of that tier only.

        `after`: 0, then the number that came with the page before. An empty page is the end.
        """
        ...

    def known_children(self, provider: str) -> frozenset[str]:
        """What refs["children"] of this provider's leases name, of all that are not terminal."""
        ...

    def newest_leases(self, *, after: str, limit: int, ended_too: bool) -> list[Lease]:
        """The newest first; `after`: the id of the last one of the page before."""
        ...

    def lease_counts_by_provider(self) -> Mapping[tuple[str, LeaseState], int]:
        """The same, apart for each provider."""
        ...

    def lease_counts(self) -> Mapping[LeaseState, int]:
        """How many leases are in each state that is not terminal; states without any may be missing."""
        ...

    def revoking_since(self, before: datetime) -> tuple[int, datetime | None]:
        """How many should have been dead since then or longer, and since when the oldest should.

        From the wish to end it; what ends by time, from its bound.
        """
        ...

    def due_leases(
        self, now: datetime, limit: int, *, without: Collection[str] = (), but: Collection[str] = ()
    ) -> list[Lease]:
        """REVOKING and IN_DOUBT with next_try_at <= now, `high` tier first, then the longest waiting.

        `without`: providers whose leases are left out, but for those of tier `high`. `but`: not these leases.
        """
        ...

    def make_due(self, at: datetime, *, provider: str = "", only: Collection[str] | None = None) -> int:
        """Whatever waits longer than until `at` is due then: all, or of one provider, or only these leases."""
        ...

    def leases_go_on_in(self, now: Moment) -> None:
        """The same for ACTIVE leases."""
        ...

    def live_past(self, now: Moment) -> list[str]:
        """Ids of ACTIVE leases at or past their expiry (`past_expiry`), those with the earliest expires_at first."""
        ...

    def unclaimed(self) -> list[str]:
        """Ids of ACTIVE leases that were never claimed, the oldest first."""
        ...

    def activate(self, lease_id: str, *, epoch: int, refs: Mapping[str, JsonValue], at: datetime) -> bool:
        """INTENT → ACTIVE if the row is of this epoch and not doomed; False otherwise."""
        ...

    def note(self, lease_id: str, *, epoch: int, refs: Mapping[str, JsonValue]) -> bool:
        """Merge into the refs of an INTENT row of this epoch."""
        ...

    def doom(self, lease_id: str, *, at: datetime, reason: EndReason) -> bool:
        """Set doomed_at and the reason on an INTENT or IN_DOUBT row, once."""
        ...

    def to_in_doubt(self, lease_id: str, *, at: datetime, problem: str) -> bool:
        """INTENT → IN_DOUBT, due at once."""
        ...

    def to_revoking(
        self, lease_id: str, *, at: datetime, reason: EndReason, refs: Mapping[str, JsonValue] | None = None
    ) -> bool:
        """ACTIVE, INTENT or IN_DOUBT → REVOKING, due at once. end_reason is set only if it was not."""
        ...

    def to_ended(self, lease_id: str, state: LeaseState, *, evidence: Evidence, at: datetime) -> bool:
        """From REVOKING (REVOKED, EXPIRED), IN_DOUBT (EXPIRED, VOID), ACTIVE (EXPIRED), INTENT (VOID).

        Erases the nonce. False when the row was in no such state.
        """
        ...

    def defer(
        self, lease_id: str, *, next_try_at: datetime, problem: str, refs: Mapping[str, JsonValue] | None = None
    ) -> bool:
        """After an attempt without evidence: attempts + 1; refs are merged. False when it is in no state to be tried."""
        ...

    def claim(self, lease_id: str, at: datetime) -> bool:
        """First heartbeat that names it: sets claimed_at, once, on ACTIVE."""
        ...

    def set_replaced_by(self, lease_id: str, successor: str) -> bool:
        """On an ACTIVE lease that has no successor yet."""
        ...

    def clear_replaced_by(self, lease_id: str, successor: str) -> None:
        """The successor's mint failed: the lease may be replaced again."""
        ...

    # idempotency
    def request(self, caller: str, request_id: str) -> Request | None: ...
    def insert_request(self, request: Request) -> None: ...
    def finish_request(
        self, caller: str, request_id: str, outcome: RequestOutcome, *, reason: str = "", message: str = ""
    ) -> None: ...
    def forget_requests(self, before: datetime) -> int:
        """Delete those with keep_until < before."""
        ...

    # journal
    def append(self, record: Record) -> Head:
        """Add to the current chain; durable with this operation, or not at all."""
        ...

    def journal_head(self) -> Head | None: ...
    def journal(self, *, after: tuple[int, int] | None = None, limit: int = 1000) -> list[Entry]: ...
    def last_of_journal(self, limit: int) -> list[Entry]:
        """The newest ones, in order."""
        ...

    def denial(self, reference_id: str) -> Entry | None: ...
    def journal_of_reference(self, reference_id: str, *, limit: int) -> list[Entry]:
        """A refusal's own record, and the number of those that share its reference, in order."""
        ...

    def journal_of_run(self, run: str, *, limit: int) -> list[Entry]:
        """What names this run, or a step of what does, in order."""
        ...

    def journal_of_step(self, step_id: str, *, limit: int) -> list[Entry]:
        """What names this step, in order."""
        ...


class Store(Protocol):
    """A database of stepcred."""

    async def write(self, operation: Callable[[Tx], T], *, quick: bool = False) -> T:
        """Run in a savepoint of a durable group commit. Raises what the operation raises, or StoreError."""
        ...

    async def read(self, operation: Callable[[Tx], T], *, quick: bool = False) -> T:
        """Run against the last committed state."""
        ...

    @property
    def sparing(self) -> bool:
        """The disk is full: new steps and leases are refused (StoreFull), ends are written."""
        ...

    def forsake(self) -> None:
        """A start is refused: at its end, a database that was only just made goes again, and shows no false first start."""
        ...

    async def close(self) -> None:
        """Finish what was queued, then close."""
        ...


def tail(tx: Tx) -> Iterator[Entry]:
    """The whole journal in order, page by page."""
    after: tuple[int, int] | None = None
    while page := tx.journal(after=after):
        yield from page
        after = (page[-1].chain, page[-1].seq)
