"""Guard keys, as operators see them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from broker.clock import Moment
from broker.guard.guard import Guard
from broker.guard.listing import Listed
from broker.leases.selection import Selection
from broker.operators.views.paging import Found, Page, paged
from broker.store.base import Tx
from broker.store.guard import GuardRow, GuardState


def keys(tx: Tx, selection: Selection, page: Page, *, open_too: bool, guard: Guard, now: Moment) -> Found[Listed]:
    """In the order of the keys. By workflow, run, step and scope."""

    def view(row: GuardRow) -> Listed | None:
        if not _fits(row, selection):
            return None
        shown = guard.listed(tx, row, now=now)
        return shown if open_too or shown.state is not GuardState.OPEN else None

    return paged(
        page,
        read=lambda after, limit: tx.guard_page(after=after, limit=limit, open_too=open_too),
        key=lambda row: row.key,
        view=view,
    )


def _fits(row: GuardRow, selection: Selection) -> bool:
    wanted = {name: getattr(selection, name) for name in ("workflow", "run", "step", "scope")}
    emptied: dict[str, Any] = dict.fromkeys(wanted, "")
    others = replace(selection, everything=False, **emptied)
    if others != Selection():
        return False  # of an agent, a provider or a lease no key is known
    return all(not name or row.about.get(field) == name for field, name in wanted.items())
