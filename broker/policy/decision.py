"""A decision is a value with a reason. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TypeAlias

from broker.model import Bind, JsonValue, OnLock, Revocability, RuleRef, Tier


class Concurrent(Enum):
    """What happens to an older attempt that is still alive when a newer one is opened."""

    REFUSE = "refuse"
    SUPERSEDE = "supersede"


class Signers(Enum):
    """May those whose signatures a map carries approve what is asked for under it?"""

    ALLOW = "allow"
    REFUSE = "refuse"


class Denial(Enum):
    """Why not. The first two tell an agent nothing; the rest are told of scopes that some grant gives it."""

    UNKNOWN_SCOPE = "UNKNOWN_SCOPE"
    NO_GRANT = "NO_GRANT"
    NO_WORKLOAD = "NO_WORKLOAD"  # the certificate matches no workload
    CLAIM_MISMATCH = "CLAIM_MISMATCH"  # a claim differs from what the certificate says
    WORKFLOW_NOT_GRANTED = "WORKFLOW_NOT_GRANTED"
    OUTSIDE_WINDOW = "OUTSIDE_WINDOW"
    GRANT_OVER = "GRANT_OVER"  # past its `until`
    DIGEST_NOT_PINNED = "DIGEST_NOT_PINNED"
    NEEDS_LAUNCHER = "NEEDS_LAUNCHER"
    TEMPLATE_VALUE = "TEMPLATE_VALUE"  # a capture that must not fill a template
    DENY_RULE = "DENY_RULE"
    TTL_TOO_SHORT = "TTL_TOO_SHORT"
    SOURCE_NOT_ALLOWED = "SOURCE_NOT_ALLOWED"  # not from one of the grant's networks
    ATTEMPTS_EXHAUSTED = "ATTEMPTS_EXHAUSTED"  # the step was opened more often than the grant allows


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessRequest:
    """One question. workflow, run and step are claims unless `proven`."""

    agent: str  # SPIFFE ID
    workflow: str
    run: str
    step: str
    scope: str
    now: datetime
    proven: bool = False  # workflow, run, step and digest were said by a launcher that may say so today
    definition_digest: str = ""
    address: str = ""  # IP address that the call comes from; "" when unknown
    attempt: int = 1  # how often this step has been opened, this time included


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowed:
    """What may be minted, and until when. With `approvals`, only after so many operators have said yes."""

    scope: str
    provider: str
    params: Mapping[str, JsonValue]  # templates filled
    tier: Tier
    revocability: Revocability
    ttl: timedelta
    max_ttl: timedelta  # over all successors, from the first mint
    max_step: timedelta  # the smallest of the matching grants
    until: datetime | None  # when the last of the matching grants ends: its window or its `until`, the sooner
    concurrent: Concurrent  # the strictest of the matching grants
    rule: RuleRef
    workload: str
    captures: Mapping[str, str]
    fits: tuple[tuple[str, Mapping[str, str]], ...]  # every workload that some grant gives it, by name, with captures
    bind: Bind = Bind.IDENTITY  # the strictest of the matching grants
    approvals: int = 0  # the most that tier, scope or a matching grant asks for
    approval_digest: str = ""  # of its grants, scope, tier and proven code, hex; "" where nothing needs approval
    shared_hourly: int = 0  # of the scope, over all agents in any rolling hour; 0 = no such limit
    on_lock: OnLock = OnLock.STEP  # of the tier
    compensate: str = ""  # the tier's: who is told of a lock, by its name in the broker's config


@dataclass(frozen=True, kw_only=True, slots=True)
class Denied:
    """Why not, and what would change it."""

    reason: Denial
    message: str
    known: bool  # some grant gives this scope to this agent: rule and fix may be told to it
    rule: RuleRef | None = None  # the rule that refused, or the nearest grant
    smallest_fix: str = ""  # YAML to paste, or a sentence


Decision: TypeAlias = Allowed | Denied
