"""What the broker says, as values. Times are aware; a word that a newer broker knows and we do not is UNSPECIFIED."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any


class Tier(Enum):
    """How dear a scope is to the guard."""

    UNSPECIFIED = "UNSPECIFIED"
    LOW = "LOW"
    ELEVATED = "ELEVATED"
    HIGH = "HIGH"


class Revocability(Enum):
    """How dead a credential can be made before its time."""

    UNSPECIFIED = "UNSPECIFIED"
    EXACT = "EXACT"
    DENY_POLICY = "DENY_POLICY"
    PUBLISHED = "PUBLISHED"
    EXPIRY_ONLY = "EXPIRY_ONLY"
    STATIC = "STATIC"


class LeaseState(Enum):
    """REVOKED, EXPIRED and VOID are terminal."""

    UNSPECIFIED = "UNSPECIFIED"
    INTENT = "INTENT"
    ACTIVE = "ACTIVE"
    REVOKING = "REVOKING"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"
    VOID = "VOID"
    IN_DOUBT = "IN_DOUBT"


class Evidence(Enum):
    """How the broker knows that a credential is dead. UNSPECIFIED: it does not know it yet."""

    UNSPECIFIED = "UNSPECIFIED"
    SEEN_DEAD = "SEEN_DEAD"
    PROBE_DENIED = "PROBE_DENIED"
    PUBLISHED = "PUBLISHED"
    EXPIRED = "EXPIRED"
    NOT_MINTED = "NOT_MINTED"
    ACCESS_ENDED = "ACCESS_ENDED"


class Access(Enum):
    """What the scope map says of one scope."""

    UNSPECIFIED = "UNSPECIFIED"
    GRANTED = "GRANTED"
    NEEDS_APPROVAL = "NEEDS_APPROVAL"
    REFUSED = "REFUSED"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The broker's record of one live credential. `successor_from`: from then on `replaces` is accepted."""

    lease_id: str
    scope: str
    tier: Tier
    revocability: Revocability
    state: LeaseState
    issued_at: datetime | None
    expires_at: datetime | None
    successor_from: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseOutcome:
    """What became of a lease whose end was asked for."""

    lease_id: str
    scope: str
    state: LeaseState
    revocability: Revocability
    evidence: Evidence
    time_to_dead: timedelta | None  # from the request to the evidence
    exposed_until: datetime | None  # latest moment at which it could still work; None once dead
    deny_written_at: datetime | None = None  # DENY_POLICY: the provider took the deny; it spreads in its own time

    @property
    def proven(self) -> bool:
        """The broker has evidence. For a static value that is only the end of its access to it."""
        return self.evidence is not Evidence.UNSPECIFIED


@dataclass(frozen=True, kw_only=True, slots=True)
class ScopeVerdict:
    """The answer about one scope. Rule, position and fix are told only for scopes that some grant gives us."""

    scope: str
    access: Access
    reason: str
    rule: str
    position: str  # file:line
    smallest_fix: str
    ttl: timedelta | None
    tier: Tier
    revocability: Revocability
    reference_id: str
    approval_id: str = ""  # of what was asked to be approved for this step and scope; "" when nothing is
    approvals_needed: int = 0
    approvals_given: int = 0
    approval_expires_at: datetime | None = None  # to be decided until then; once approved, to be used
    # What the credential would be able to do (docs/can.md); None unless it was asked for, and for what is refused.
    policy: Mapping[str, Any] | None = field(default=None, hash=False)

    @property
    def granted(self) -> bool:
        return self.access is Access.GRANTED


@dataclass(frozen=True, kw_only=True, slots=True)
class Launched:
    """A step that a launcher opened for a workload, which joins it with the handle and its own certificate."""

    handle: str = field(repr=False)
    attempt: int  # 1 for the first time that this step is opened
    deadline: datetime | None
    start_within: timedelta | None  # the workload must join it by then
    verdicts: tuple[ScopeVerdict, ...]  # as far as they are known before the workload has called


@dataclass(frozen=True, kw_only=True, slots=True)
class ReachingGrant:
    """What one grant says of a scope. All of it has to hold."""

    rule: str
    position: str  # file:line:column
    workload: str  # of ours, that it is for
    workflows: tuple[str, ...]  # () = any
    workflows_left_out: int  # more, that the broker had no room for
    approvals_needed: int
    max_step: timedelta | None
    conditions: tuple[str, ...]  # in words; () = always and from anywhere


@dataclass(frozen=True, kw_only=True, slots=True)
class ReachableScope:
    """A scope that some grant gives us. Whether it would be given now only `check` says."""

    scope: str
    provider: str  # vault, aws
    tier: Tier
    revocability: Revocability
    ttl: timedelta | None  # of one lease
    max_ttl: timedelta | None  # with its successors
    grants: tuple[ReachingGrant, ...]  # each gives it by itself
    grants_left_out: int
    refused_by: tuple[str, ...]  # in words: deny rules that may refuse it whatever the grants say


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What the broker makes of our certificate."""

    spiffe_id: str
    environment: str
    workloads: Mapping[str, Mapping[str, str]]  # name → captures
    scopes: tuple[str, ...]
    certificate_not_after: datetime | None
    certificate_sha256: str
    server_time: datetime | None
    reach: tuple[ReachableScope, ...] = ()  # `scopes` with what the grants say of them
    reach_left_out: int = 0  # so many of `scopes` are missing at its end


def summary(outcomes: Iterable[LeaseOutcome], *, now: datetime | None = None) -> str:
    """One line for people: "2 credentials dead, proven in 41 ms; 1 denied, exposed until 10:05Z at most" (UTC)."""
    made = [o for o in outcomes if o.state is not LeaseState.VOID]
    static = [o for o in made if o.evidence is Evidence.ACCESS_ENDED]
    dead = [o for o in made if o.proven and o not in static]
    alive = [o for o in made if not o.proven]
    parts = []
    if dead:
        parts.append(f"{len(dead)} {'credential' if len(dead) == 1 else 'credentials'} dead{_proven_in(dead)}")
    if static:
        parts.append(f"{len(static)} static, no longer served (the value lives on)")
    now = now or datetime.now(UTC)
    denied = [o for o in alive if o.deny_written_at is not None and o.exposed_until is not None]
    if denied:
        parts.append(f"{len(denied)} denied, exposed until {_last_clock_time(denied, now)} at most")
    bounded = [o for o in alive if o.deny_written_at is None and o.exposed_until is not None]
    if bounded:
        parts.append(f"{len(bounded)} exposed until {_last_clock_time(bounded, now)}")
    if unbounded := len(alive) - len(denied) - len(bounded):
        parts.append(f"{unbounded} not proven dead")
    return "; ".join(parts) or "no credential was issued"


def _proven_in(dead: list[LeaseOutcome]) -> str:
    times = [o.time_to_dead for o in dead if o.time_to_dead is not None]
    if not times:
        return ", proven"
    milliseconds = max(times) / timedelta(milliseconds=1)
    if milliseconds < 1:
        return ", proven in under 1 ms"
    return f", proven in {milliseconds:.0f} ms" if milliseconds < 1000 else f", proven in {milliseconds / 1000:.1f} s"  # noqa: PLR2004 (ms in a second)


def _last_clock_time(outcomes: list[LeaseOutcome], now: datetime) -> str:
    return _clock_time(max(o.exposed_until for o in outcomes if o.exposed_until is not None), now)


def _clock_time(moment: datetime, now: datetime) -> str:
    at = moment.astimezone(UTC)
    return at.strftime("%H:%MZ" if at.date() == now.astimezone(UTC).date() else "%Y-%m-%d %H:%MZ")


def left_behind(leases: Iterable[Lease], *, now: datetime | None = None) -> str:
    """What a step that could not be ended leaves, as far as its client knows; "" for nothing."""
    held = list(leases)
    if not held:
        return ""
    bounds = [lease.expires_at for lease in held if lease.expires_at is not None]
    until = f" until {_clock_time(max(bounds), now or datetime.now(UTC))}" if bounds else ""
    what = "1 credential" if len(held) == 1 else f"{len(held)} credentials"
    return f"{what} may live{until}; the broker ends {'it' if len(held) == 1 else 'them'} when it can"
