"""A scope's limit over all agents. A rate limit only: one that locked would be a kill switch for others."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from broker.config import part_of
from broker.store.base import Tx


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """So many credentials of this scope in any rolling hour, whoever asks."""

    scope: str
    hourly: int

    @property
    def each(self) -> int:
        """Of one workload."""
        return part_of(self.hourly)

    def has_room(self, tx: Tx, hour_key: str, since: datetime) -> bool:
        """For one more of the workload behind `hour_key`, whose own charges of this scope are all counted."""
        return tx.count_charges(hour_key, since) < self.each and tx.count_shared(self.scope, since) < self.hourly
