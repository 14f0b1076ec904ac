"""What a reader is told instead of a credential: the broker's own reason, and whether asking again can help."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from stepcred._errors import (
    BrokerUnavailable,
    DeadlineExceeded,
    NoIdentity,
    Refused,
    SettingsError,
    StepcredError,
    StepEnded,
    TlsRefused,
    Verdict,
)
from stepcred._refusals import is_final

FORBIDDEN, GONE, TOO_MANY, BAD_GATEWAY, AWAY = 403, 410, 429, 502, 503
ASK_AGAIN = 2.0  # seconds, where nobody says better


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """A refusal over HTTP. 4xx but 429: asking again cannot help. `retry_after` is seconds."""

    status: int
    code: str
    message: str
    retry_after: float | None = None

    @property
    def body(self) -> Mapping[str, str]:
        """As the container credentials of ECS and EKS have it: SDKs show it to their users."""
        return {"code": self.code, "message": self.message}

    @property
    def headers(self) -> Mapping[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(max(math.ceil(self.retry_after), 1))}


STARTING = Told(status=AWAY, code="STARTING", message="the sidecar has no credentials yet", retry_after=1.0)
ENDING = Told(status=GONE, code="STEP_ENDED", message="the step is over, its credentials are taken back")


def told(error: StepcredError) -> Told:
    """The answer for this error."""
    match error:
        case Refused():
            return _refused(error)
        case BrokerUnavailable() | DeadlineExceeded() | NoIdentity():
            code = getattr(error, "reason", "") or "BROKER_UNAVAILABLE"
            later = getattr(error, "retry_after", None) or ASK_AGAIN
            return Told(status=AWAY, code=code, message=str(error), retry_after=later)
        case TlsRefused() | SettingsError():
            return Told(status=BAD_GATEWAY, code="BROKER_REFUSED", message=str(error))
        case _:
            return Told(status=BAD_GATEWAY, code="UNEXPECTED", message=str(error))


def _refused(refused: Refused) -> Told:
    if isinstance(refused, StepEnded):
        return Told(status=GONE, code=refused.reason, message=_ended(refused))
    if is_final(refused):
        return Told(status=FORBIDDEN, code=refused.reason, message=str(refused))
    status = AWAY if refused.verdict is Verdict.NEEDS_APPROVAL else TOO_MANY
    later = ASK_AGAIN if refused.retry_after is None else refused.retry_after
    return Told(status=status, code=refused.reason, message=str(refused), retry_after=later)


def _ended(error: StepEnded) -> str:
    by = error.metadata.get("ended_by", "")
    return f"{error}; ended by {by}" if by else str(error)
