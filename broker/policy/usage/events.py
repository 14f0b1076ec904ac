"""What a journal tells of the scope map's use."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import TypeAlias

from broker.policy.decision import AccessRequest


class Outcome(Enum):
    """What policy said. The guard's and the providers' refusals come after it."""

    ALLOWED = "allowed"
    APPROVAL = "allowed after approval"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One recorded question, and what the map of its time said."""

    request: AccessRequest  # at its own time; `proven` and digest as they were believed then
    outcome: Outcome
    named: bool  # at the step's beginning, where nothing was minted; else a credential was asked for
    launcher: str = ""  # SPIFFE ID of the launcher that opened the step; "" when the agent did it itself
    said_digest: str = ""  # what the launcher said, believed or not
    reason: str = ""  # why it was refused
    reference: str = ""  # what the refused agent was told
    step_id: str = ""
    untold: frozenset[str] = field(default=frozenset())  # circumstances that its record does not tell


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOver:
    """How long a step lived; `own_end`: nobody cut it short."""

    step_id: str
    lasted: timedelta
    own_end: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseOver:
    """How long a credential was kept before its end was asked for; `own_end`: nobody cut it short."""

    scope: str
    lived: timedelta
    own_end: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Uncounted:
    """Refusals of a storm, that the journal holds as a number."""

    reason: str
    count: int  # beyond the first one, which has a record of its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Unusable:
    """A record of a request that cannot be asked again."""

    why: str


Event: TypeAlias = Question | StepOver | LeaseOver | Uncounted | Unusable


@dataclass(kw_only=True, slots=True)
class Period:
    """The time that the records read lie in."""

    records: int = 0
    first: datetime | None = None
    last: datetime | None = None

    def note(self, at: datetime) -> None:
        """One more record."""
        self.records += 1
        self.first = at if self.first is None else min(self.first, at)
        self.last = at if self.last is None else max(self.last, at)

    @property
    def span(self) -> timedelta:
        """From the first record to the last."""
        return self.last - self.first if self.first and self.last else timedelta(0)

    def __str__(self) -> str:
        if self.first is None or self.last is None:
            return "no records"
        return f"{_span(self.span)} of journal ({self.first:%Y-%m-%d %H:%M} to {self.last:%Y-%m-%d %H:%M} UTC)"


def _span(span: timedelta) -> str:
    if span >= timedelta(days=2):
        return f"{span.days} days"
    minutes = int(span.total_seconds()) // 60
    return f"{minutes // 60} hours" if minutes >= 120 else f"{minutes} minutes"  # noqa: PLR2004 - two hours
