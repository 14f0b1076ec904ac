"""Everything that the SDK raises. `str()` is fit for a log: no secret is ever in it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Any, ClassVar, Self


class Verdict(Enum):
    """What can be done about a refusal."""

    RETRY_AFTER = "RETRY_AFTER"
    NEVER = "NEVER"
    NEEDS_APPROVAL = "NEEDS_APPROVAL"


class StepcredError(Exception):
    """Base of all."""

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is: one that cannot be read again makes a pool of processes wait for ever for its result."""
        return _again, (type(self), self.args, vars(self))


def _again(kind: type[StepcredError], args: tuple[object, ...], state: Mapping[str, object]) -> StepcredError:
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error


class SettingsError(StepcredError):
    """Nothing was sent: a setting is missing or unusable. `problems` holds every one found."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class NoIdentity(StepcredError):
    """The SPIFFE Workload API gives us no certificate. `not_yet`: it answers that there is none for us, so far."""

    def __init__(self, message: str, *, not_yet: bool = False) -> None:
        super().__init__(message)
        self.not_yet = not_yet


class Refused(StepcredError):
    """The broker decided no. `reason` is stable, UPPER_SNAKE; `retry_after` is seconds, set where retrying can succeed.

    `reference_id` finds the decision in the broker's journal: give it to an operator. `metadata` is what else it told.
    `scope` is set by `issue`.
    """

    REASONS: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        verdict: Verdict = Verdict.NEVER,
        retry_after: float | None = None,
        reference_id: str = "",
        metadata: Mapping[str, str] | None = None,
        scope: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.verdict = verdict
        self.retry_after = retry_after
        self.reference_id = reference_id
        self.metadata = dict(metadata or {})
        self.scope = scope

    def again(self, retry_after: float | None) -> Self:
        """The same answer once more, for somebody else to catch. `retry_after`: seconds that are left by now."""
        return type(self)(
            self.message,
            reason=self.reason,
            verdict=self.verdict,
            retry_after=retry_after,
            reference_id=self.reference_id,
            metadata=self.metadata,
            scope=self.scope,
        )

    def __str__(self) -> str:
        reference = f", reference {self.reference_id}" if self.reference_id else ""
        later = f"; may be retried in {self.retry_after:.0f} s" if self.retry_after is not None else ""
        return f"{self.message} [{self.reason}{reference}]{later}"


class AccessDenied(Refused):
    """The scope map does not give it to us, here and now."""

    REASONS = frozenset(
        {
            "ACCESS_DENIED",
            "SCOPE_REFUSED",
            "SCOPE_NOT_NAMED",
            "OPENED_BY_LAUNCHER",
            "AGENT_DENIED",
            "FROZEN",
            "APPROVAL_DECIDED",
        }
    )


class NeedsApproval(AccessDenied):
    """Operators must approve it first; `issue(…, approval_timeout=…)` waits for them. No attempt was spent."""

    REASONS = frozenset({"NEEDS_APPROVAL", "APPROVAL_EXPIRED"})

    def __str__(self) -> str:
        told = f"; approval {self.approval_id} ({self.approvals_given} of {self.approvals_needed})"
        return super().__str__() + (told if self.approval_id else "")

    @property
    def approval_id(self) -> str:
        """What operators approve: `stepcred admin approvals approve ID`."""
        return self.metadata.get("approval_id", "")

    @property
    def approvals_needed(self) -> int:
        """How many operators must say yes."""
        return _number(self.metadata.get("approvals_needed", ""))

    @property
    def approvals_given(self) -> int:
        """How many have, so far."""
        return _number(self.metadata.get("approvals_given", ""))

    @property
    def approval_expires_at(self) -> datetime | None:
        """Until when it can be approved."""
        try:
            at = datetime.fromisoformat(self.metadata.get("approval_expires_at", ""))
        except ValueError:
            return None
        return at if at.tzinfo is not None else None


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


class StepEnded(Refused):
    """Our step is over: by an operator, its deadline, silence, a lock of the guard, or a newer attempt."""

    REASONS = frozenset({"STEP_ENDED"})


class GuardRefused(Refused):
    """Too many attempts: cooling (see `retry_after`), locked, or held until an operator decides."""

    REASONS = frozenset({"COOLING", "LOCKED", "HELD", "CEILING", "RATE_LIMITED"})


class ProviderFailed(Refused):
    """What mints the credential failed. A new `issue` is a new, charged attempt."""

    REASONS = frozenset({"PROVIDER_FAILED", "NO_ROOM_TO_REVOKE"})


class BrokerUnavailable(StepcredError):
    """The broker cannot be reached, or cannot serve now. `reason` is set when it said so itself."""

    def __init__(
        self, message: str, *, reason: str = "", reference_id: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.reference_id = reference_id
        self.retry_after = retry_after

    def again(self, retry_after: float | None) -> Self:
        """The same answer once more, for somebody else to catch. `retry_after`: seconds that are left by now."""
        return type(self)(str(self), reason=self.reason, reference_id=self.reference_id, retry_after=retry_after)


class TlsRefused(StepcredError):
    """No connection: one side does not accept the other's certificate. Retrying does not help."""


class OperatorRefused(TlsRefused):
    """The same at the operators' listener."""


class DeadlineExceeded(StepcredError):
    """No answer in time. What was asked may have happened; an unclaimed credential is revoked by the broker."""


class UnexpectedAnswer(StepcredError):
    """An answer that no broker gives: another server, a proxy, or a newer version."""


_BY_REASON = {
    reason: kind
    for kind in (AccessDenied, NeedsApproval, StepEnded, GuardRefused, ProviderFailed)
    for reason in kind.REASONS
}


def refusal_class(reason: str) -> type[Refused]:
    """The most telling exception for a reason."""
    return _BY_REASON.get(reason, Refused)
