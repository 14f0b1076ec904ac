"""What a pane is made of, and how it fits a terminal. Knows neither textual nor rich."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from stepcred.cli._top.model import Snapshot
from stepcred.cli._top.words import fit

GAP = 1  # blanks between two columns
_LESS = 0.3  # of what it can use


class Tone(Enum):
    """What a colour stands for. Never alone: the text says the same."""

    PLAIN = ""
    GOOD = "green"
    LOOK = "yellow"
    BAD = "bold red"
    ASIDE = "dim"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """`least` and `most` characters. The end of a run's name tells more than its beginning: `keep_end`."""

    title: str
    least: int
    most: int
    keep_end: bool = False
    right: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """`orders` has one value for each of the pane's orders; `details` is the whole of what the cells cut short."""

    key: str
    cells: tuple[Cell, ...]
    orders: tuple[Any, ...]
    details: tuple[tuple[str, str], ...]
    commands: tuple[str, ...] = ()

    def has(self, needle: str) -> bool:
        """In any of its cells or details, whatever the case."""
        texts = [*(cell.text for cell in self.cells), *(value for _, value in self.details)]
        return any(needle.lower() in text.lower() for text in texts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pane:
    name: str
    columns: tuple[Column, ...]
    orders: tuple[str, ...]
    rows: Callable[[Snapshot], Sequence[Row]]
    nothing: str
    more: Callable[[Snapshot], str] = lambda _: ""


def arranged(rows: Sequence[Row], *, order: int, needle: str) -> list[Row]:
    """Those that have the needle, in the pane's n-th order; the same ones always come out in the same one.

    Each once: what moved between two pages of one list was told twice.
    """
    found = {row.key: row for row in rows if row.has(needle)}
    return sorted(found.values(), key=lambda row: (row.orders[order], row.key))


def needed(columns: Sequence[Column], rows: Sequence[Row]) -> list[int]:
    """Characters of each column, so that nothing is cut."""
    return [max(len(column.title), *(len(row.cells[n].text) for row in rows), 0) for n, column in enumerate(columns)]


def widths(columns: Sequence[Column], rows: Sequence[Row], total: int) -> list[int]:
    """Of each column, in characters: with their gaps they fill `total`, where `total` has room for the least of each.

    No column but the last is wider than what stands in it; the numbers keep their room, so that they do not dance.
    What is left over goes to whichever has the smallest part of what it can use; columns that keep their end can do
    with less.
    """
    full = needed(columns, rows)
    given = [
        column.least if column.right else min(column.least, need) for column, need in zip(columns, full, strict=True)
    ]
    useful = [min(column.most, need) for column, need in zip(columns, full, strict=True)]
    spare = total - sum(given) - GAP * (len(columns) - 1)
    while spare > 0:
        hungry = [n for n in range(len(columns)) if given[n] < useful[n]]
        if not hungry:
            given[-1] += spare
            break
        given[min(hungry, key=lambda n: (given[n] / useful[n] + (_LESS if columns[n].keep_end else 0), n))] += 1
        spare -= 1
    return given


def shown(cell: Cell, column: Column, width: int) -> str:
    text = fit(cell.text, width, keep_end=column.keep_end)
    return text.rjust(width) if column.right else text
