"""Guard keys, as operators see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from broker.guard.tiers import HOUR, AfterLock, TierRules
from broker.leases.selection import Selection
from broker.model import Tier
from broker.operators.views.paging import Found, Page, paged
from broker.store.base import GuardRow, GuardState, Tx


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardView:
    """A key and what its tier allows."""

    row: GuardRow
    state: GuardState  # a row says COOLING or LOCKED until the next request finds that it is over
    spent: int
    allowed: int  # of a step's budget, or in an hour
    ceiling: int  # 0: it has none

    @property
    def hour(self) -> bool:
        """A workload's rolling hour, not one step's budget."""
        return is_hour(self.row)

    def about(self, name: str) -> str:
        """A word of what the key stands for; "" when it has none."""
        return str(self.row.about.get(name, ""))


def is_hour(row: GuardRow) -> bool:
    """Of the rolling hour: it stands behind itself."""
    return row.key == row.hour_key


def keys(
    tx: Tx,
    selection: Selection,
    page: Page,
    *,
    open_too: bool,
    rules: Callable[[Tier], TierRules],
    now: datetime,
) -> Found[GuardView]:
    """In the order of the keys. By workflow, run, step and scope."""

    def view(row: GuardRow) -> GuardView | None:
        if not _fits(row, selection):
            return None
        shown = guard_view(tx, row, rules=rules, now=now)
        return shown if open_too or shown.state is not GuardState.OPEN else None

    return paged(
        page,
        read=lambda after, limit: tx.guard_page(after=after, limit=limit, open_too=open_too),
        key=lambda row: row.key,
        view=view,
    )


def guard_view(tx: Tx, row: GuardRow, *, rules: Callable[[Tier], TierRules], now: datetime) -> GuardView:
    """Of one."""
    of_tier, state = rules(Tier(row.tier)), row.state
    ends = state is GuardState.COOLING or (state is GuardState.LOCKED and of_tier.after_lock is AfterLock.RESTORE)
    if ends and row.until is not None and row.until <= now:
        state = GuardState.OPEN
    if is_hour(row):
        spent = tx.count_charges(row.key, now - HOUR)
        return GuardView(row=row, state=state, spent=spent, allowed=of_tier.hourly, ceiling=0)
    return GuardView(row=row, state=state, spent=row.spent, allowed=of_tier.budget, ceiling=of_tier.ceiling)


def _fits(row: GuardRow, selection: Selection) -> bool:
    wanted = {name: getattr(selection, name) for name in ("workflow", "run", "step", "scope")}
    emptied: dict[str, Any] = dict.fromkeys(wanted, "")
    others = replace(selection, everything=False, **emptied)
    if others != Selection():
        return False  # of an agent, a provider or a lease no key is known
    return all(not name or row.about.get(field) == name for field, name in wanted.items())
