"""How long people have."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from broker.config.values import Duration


@dataclass(frozen=True, kw_only=True, slots=True)
class Approvals:
    """Of a request for approval."""

    pending: Duration = timedelta(hours=8)  # to be decided
    valid: Duration = timedelta(hours=1)  # to be used, once given
