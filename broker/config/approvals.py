"""How long people have."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from broker.config.values import Duration

LONGEST = timedelta(days=7)  # whoever said yes so long ago did not say it of today


@dataclass(frozen=True, kw_only=True, slots=True)
class Approvals:
    """Of a request for approval."""

    pending: Duration = timedelta(hours=8)  # to be decided
    valid: Duration = timedelta(hours=1)  # to be used, once given


def check_approvals(approvals: Approvals) -> Approvals:
    """Raises ValueError, a line for each span that is too long."""
    problems = [f"{name} must not be above 7d" for name in ("pending", "valid") if getattr(approvals, name) > LONGEST]
    if problems:
        raise ValueError("\n".join(problems))
    return approvals
