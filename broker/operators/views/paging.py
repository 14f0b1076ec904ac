"""A page at a time, and so much of the database for each: no question of an operator's holds up an agent's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from broker.errors import BrokerError, Reason
from broker.store.base import Store, Tx

MOST = 200  # rows in one answer
SCANNED = 100  # rows looked at in one read, 8 ms (measured): agents' questions are answered by the same reader
READS = 20  # for one answer
_LONGEST = 128  # characters of a token; ours have 64 at most

R = TypeVar("R")
V = TypeVar("V")


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Which one is asked for."""

    size: int = MOST
    after: str = ""  # the id of the last row that was looked at


@dataclass(frozen=True, kw_only=True, slots=True)
class Found(Generic[V]):
    """Perhaps fewer than asked for, or none at all, although there are more: `after` of the next page, "" at the end."""

    rows: tuple[V, ...]
    after: str = ""


def page_of(size: int, token: str) -> Page:
    """As asked for, within bounds; 0 is the most. Raises INVALID_ARGUMENT."""
    if len(token) > _LONGEST:
        raise BrokerError(Reason.INVALID_ARGUMENT, "page.token is none that was given")
    return Page(size=min(size or MOST, MOST), after=token)


def paged(
    page: Page,
    *,
    read: Callable[[str, int], Sequence[R]],
    key: Callable[[R], str],
    view: Callable[[R], V | None],
) -> Found[V]:
    """Rows of one page, from one short read.

    Args:
        page: which.
        read: from the id of a row and a limit to those after it.
        key: a row's id.
        view: what is shown of a row; None when it does not fit the question.
    """
    found: list[V] = []
    after = page.after
    rows = read(after, SCANNED)
    for row in rows:
        after = key(row)
        shown = view(row)
        if shown is not None:
            found.append(shown)
        if len(found) == page.size:
            return Found(rows=tuple(found), after=after)
    return Found(rows=tuple(found), after=after if len(rows) == SCANNED else "")


async def answered(store: Store, page: Page, look: Callable[[Tx, Page], Found[V]]) -> Found[V]:
    """A whole page by several short reads, between which agents get theirs."""
    rows: list[V] = []
    for _ in range(READS):
        rest = replace(page, size=page.size - len(rows))
        found = await store.read(lambda tx, rest=rest: look(tx, rest))  # type: ignore[misc]
        rows += found.rows
        page = replace(page, after=found.after)
        if not found.after or len(rows) == page.size:
            break
    return Found(rows=tuple(rows), after=page.after)
