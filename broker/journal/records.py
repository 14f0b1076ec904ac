"""What one journal record says: who, what, when, where, why. No secret, hashed or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from operator import attrgetter

from broker.model import Agent, JsonValue


class Kind(Enum):
    """What happened. Names are stable: exporters and auditors match on them."""

    GENESIS = "GENESIS"
    EPOCH_STARTED = "EPOCH_STARTED"
    EPOCH_ENDED = "EPOCH_ENDED"
    POLICY_LOADED = "POLICY_LOADED"
    POLICY_REFUSED = "POLICY_REFUSED"
    TRUST_LOADED = "TRUST_LOADED"
    TRUST_REFUSED = "TRUST_REFUSED"
    STEP_BEGUN = "STEP_BEGUN"
    STEP_STARTED = "STEP_STARTED"  # the first call of the workload whose step a launcher opened
    STEP_ENDED = "STEP_ENDED"
    DENIED = "DENIED"
    DENIALS_COUNTED = "DENIALS_COUNTED"  # the aggregate of a storm
    LEASE_INTENT = "LEASE_INTENT"
    LEASE_NOTED = "LEASE_NOTED"  # the provider made something on the way
    LEASE_ACTIVE = "LEASE_ACTIVE"
    LEASE_CLAIMED = "LEASE_CLAIMED"
    LEASE_DOOMED = "LEASE_DOOMED"
    LEASE_IN_DOUBT = "LEASE_IN_DOUBT"
    LEASE_REVOKING = "LEASE_REVOKING"
    LEASE_OVERDUE = "LEASE_OVERDUE"  # asked to die a minute ago, and not seen dead
    LEASE_PROGRESS = "LEASE_PROGRESS"
    LEASE_REVOKED = "LEASE_REVOKED"
    LEASE_EXPIRED = "LEASE_EXPIRED"
    LEASE_VOID = "LEASE_VOID"
    PROVIDER_CUT_OFF = "PROVIDER_CUT_OFF"  # to end this lease, all of its kind that are older were ended
    GUARD_LOCKED = "GUARD_LOCKED"
    GUARD_HELD = "GUARD_HELD"
    GUARD_CEILING = "GUARD_CEILING"
    GUARD_RESET = "GUARD_RESET"  # an operator opened it
    BREAK_GLASS = "BREAK_GLASS"  # the same, alone
    REVIEW_SIGNED = "REVIEW_SIGNED"
    APPROVAL_REQUESTED = "APPROVAL_REQUESTED"
    APPROVAL_VOTED = "APPROVAL_VOTED"
    APPROVAL_GIVEN = "APPROVAL_GIVEN"  # by the last one needed
    APPROVAL_DENIED = "APPROVAL_DENIED"
    APPROVAL_ENDED = "APPROVAL_ENDED"  # expired, or what it was for has changed
    APPROVAL_RETURNED = "APPROVAL_RETURNED"  # nothing was minted with it
    OPERATORS_LOADED = "OPERATORS_LOADED"
    OPERATORS_REFUSED = "OPERATORS_REFUSED"
    SECOND_FACTOR_SEALED = "SECOND_FACTOR_SEALED"  # made for an operator; it counts once it stands in the file
    OPERATOR_DENIED = "OPERATOR_DENIED"  # what an operator asked for was refused
    REVOKE_ORDERED = "REVOKE_ORDERED"  # the kill switch
    FROZEN = "FROZEN"
    UNFROZEN = "UNFROZEN"
    COMPENSATION = "COMPENSATION"  # a receiver has taken what it was told of a lock
    RECOVERING = "RECOVERING"  # an operator began to find what a restored database does not know
    RECOVERED = "RECOVERED"
    ALERT = "ALERT"
    ALERT_RESOLVED = "ALERT_RESOLVED"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One entry. `data` holds what is particular to the kind, as JSON values."""

    kind: Kind
    at: datetime
    agent: str = ""  # SPIFFE ID
    cert_sha256: str = ""
    peer: str = ""
    workflow: str = ""
    run: str = ""
    step: str = ""
    step_id: str = ""
    lease_id: str = ""
    scope: str = ""
    reason: str = ""
    rule: str = ""
    reference_id: str = ""  # what the agent was told, for `explain`
    data: Mapping[str, JsonValue] = field(default_factory=dict)

    def body(self) -> str:
        """Canonical JSON (sorted keys, no blanks, empty fields left out): what is hashed and stored."""
        fields = {name: value for name, value in zip(_NAMES, _FIELDS(self), strict=True) if value}
        fields["kind"] = self.kind.value
        fields["at"] = self.at.isoformat()
        return _CANONICAL.encode(fields)


_NAMES: tuple[str, ...] = Record.__slots__
_FIELDS = attrgetter(*_NAMES)
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def by(agent: Agent) -> dict[str, str]:
    """The who-and-where fields of a record about this caller."""
    return {"agent": agent.spiffe_id, "cert_sha256": agent.cert_sha256, "peer": agent.peer}
