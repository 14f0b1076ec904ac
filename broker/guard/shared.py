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

    def filled(self, tx: Tx, hour_key: str, since: datetime) -> datetime | None:
        """The charge that has to leave the window before it has room for one more; None: it has.

        Of the workload behind `hour_key`, whose own charges of this scope are all counted.
        """
        own = tx.nth_charge(self.each, hour_key=hour_key, since=since)
        of_all = tx.nth_shared(self.hourly, shared=self.scope, since=since)
        return max((at for at in (own, of_all) if at is not None), default=None)
