"""A page at a time, and so much of the database for each: no question of an operator's holds up another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from broker.errors import BrokerError, Reason

MOST = 200  # rows in one answer
SCANNED = 2000  # rows looked at for one answer
_AT_ONCE = 200  # rows read together
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
    """Rows of one page.

    Args:
        page: which.
        read: from the id of a row and a limit to those after it.
        key: a row's id.
        view: what is shown of a row; None when it does not fit the question.
    """
    found: list[V] = []
    after, looked_at = page.after, 0
    while looked_at < SCANNED:
        rows = read(after, _AT_ONCE)
        for row in rows:
            after = key(row)
            shown = view(row)
            if shown is not None:
                found.append(shown)
            if len(found) == page.size:
                return Found(rows=tuple(found), after=after)
        if len(rows) < _AT_ONCE:
            return Found(rows=tuple(found))
        looked_at += len(rows)
    return Found(rows=tuple(found), after=after)
