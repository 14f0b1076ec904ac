"""Every refusal as one exception with a stable reason. Layers below rpc raise these; rpc.status maps them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import Enum

from broker.model import JsonValue, Verdict


class Reason(Enum):
    """Stable UPPER_SNAKE reasons; part of the wire contract (docs/errors.md)."""

    # identity
    NO_CLIENT_CERTIFICATE = "NO_CLIENT_CERTIFICATE"
    CERTIFICATE_INVALID = "CERTIFICATE_INVALID"
    CERTIFICATE_EXPIRED = "CERTIFICATE_EXPIRED"
    CERTIFICATE_REVOKED = "CERTIFICATE_REVOKED"
    SPIFFE_ID_INVALID = "SPIFFE_ID_INVALID"
    TRUST_DOMAIN_FOREIGN = "TRUST_DOMAIN_FOREIGN"
    AGENT_DENIED = "AGENT_DENIED"
    # request
    INVALID_REQUEST_ID = "INVALID_REQUEST_ID"
    INVALID_NAME = "INVALID_NAME"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"  # other payload under the same id
    # policy
    ACCESS_DENIED = "ACCESS_DENIED"  # unknown scope, foreign handle or lease: indistinguishable
    SCOPE_REFUSED = "SCOPE_REFUSED"  # a grant gives it to this agent, not under these conditions
    NEEDS_APPROVAL = "NEEDS_APPROVAL"
    SCOPE_NOT_NAMED = "SCOPE_NOT_NAMED"  # not among BeginStep's scopes
    TTL_TOO_SHORT = "TTL_TOO_SHORT"  # under 60 s would be left
    # state
    STEP_ENDED = "STEP_ENDED"
    STEP_ALIVE = "STEP_ALIVE"  # an older attempt lives and the grant says refuse
    OPENED_BY_LAUNCHER = "OPENED_BY_LAUNCHER"  # and its agent would open it by itself
    LEASE_ENDED = "LEASE_ENDED"
    NOT_REPLACEABLE = "NOT_REPLACEABLE"
    SUCCESSORS_EXHAUSTED = "SUCCESSORS_EXHAUSTED"
    REPLAY_LOST = "REPLAY_LOST"
    FROZEN = "FROZEN"
    # guard
    COOLING = "COOLING"
    LOCKED = "LOCKED"
    HELD = "HELD"
    CEILING = "CEILING"
    RATE_LIMITED = "RATE_LIMITED"
    # operators
    OPERATOR_UNKNOWN = "OPERATOR_UNKNOWN"  # its certificate is good, and the operators file does not name it
    ROLE_MISSING = "ROLE_MISSING"
    SECOND_FACTOR_MISSING = "SECOND_FACTOR_MISSING"  # none is sealed for it
    CODE_WRONG = "CODE_WRONG"
    CODE_REPLAYED = "CODE_REPLAYED"
    CODE_LOCKED = "CODE_LOCKED"  # too many wrong ones
    OWNER_MAY_NOT = "OWNER_MAY_NOT"  # of the workload, or of its launcher
    SIGNER_MAY_NOT = "SIGNER_MAY_NOT"  # of the map in force
    SIGNER_UNKNOWN = "SIGNER_UNKNOWN"  # a key that signed the map in force belongs to no operator
    VOTED_ALREADY = "VOTED_ALREADY"
    OTHER_OPERATOR_NEEDED = "OTHER_OPERATOR_NEEDED"  # than the one who did it last, or who did what is reviewed
    APPROVAL_EXPIRED = "APPROVAL_EXPIRED"
    APPROVAL_CHANGED = "APPROVAL_CHANGED"  # the grant, scope or tier is another one by now
    APPROVAL_DECIDED = "APPROVAL_DECIDED"
    NOT_FOUND = "NOT_FOUND"  # told to operators only
    # provider and broker
    PROVIDER_FAILED = "PROVIDER_FAILED"
    NO_ROOM_TO_REVOKE = "NO_ROOM_TO_REVOKE"  # it could not be ended early, as its scope promises
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"  # disk full, database locked out
    DRAINING = "DRAINING"
    EPOCH_LOST = "EPOCH_LOST"
    INTERNAL = "INTERNAL"


class BrokerError(Exception):
    """A refusal that a client may see: constant text, no secret, no provider's words.

    `retry_after` is set only where retrying can succeed; with it the verdict is RETRY_AFTER.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        retry_after: timedelta | None = None,
        verdict: Verdict | None = None,
        metadata: Mapping[str, str] | None = None,
        about: Mapping[str, JsonValue] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        if verdict is None:
            verdict = Verdict.RETRY_AFTER if retry_after is not None else Verdict.NEVER
        self.verdict = verdict
        self.metadata: dict[str, str] = dict(metadata or {})
        self.about: dict[str, JsonValue] = dict(about or {})  # Record fields for the journal; never told to the client
        self.reference_id = ""

    def anew(self) -> BrokerError:
        """The same refusal for someone else: without the reference id that this one was journalled under."""
        return BrokerError(
            self.reason,
            self.message,
            retry_after=self.retry_after,
            verdict=self.verdict,
            metadata=self.metadata,
            about=self.about,
        )


class ConfigError(Exception):
    """What cannot be started with; `problems` holds every mistake found, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class NoIdentity(Exception):
    """The SPIFFE agent gives the broker no certificate, so far; a later start may succeed."""


class StoreError(Exception):
    """The database did not do it; nothing of the operation was written."""


class StoreConflict(StoreError):
    """A row that must be unique exists already."""


class StoreFull(StoreError):
    """No space left, or the file may not grow."""


def access_denied() -> BrokerError:
    """The one answer for whatever is unknown or another's; it must not tell which (DESIGN section 8)."""
    return BrokerError(Reason.ACCESS_DENIED, "access denied")


def unreadable(error: Exception) -> str:
    """Why a file could not be used, and what to do; to be put after its name."""
    match error:
        case FileNotFoundError():
            return "does not exist"
        case PermissionError():
            return "may not be read by this user; change its owner, or run this as the daemon's user"
        case IsADirectoryError():
            return "is a folder; name a file"
        case OSError():
            return f"cannot be read ({error.strerror})"
        case UnicodeDecodeError():
            return "is not text; is it the right file?"
        case _:
            return "is damaged, or another kind of file"
