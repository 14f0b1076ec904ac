"""From cells to rich text. Never through markup: the texts are other people's."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from stepcred.cli._top.table import Cell


def text(cell: Cell) -> Text:
    return Text(cell.text, style=cell.tone.value, no_wrap=True, overflow="ellipsis", end="")


def joined(cells: Iterable[Cell], gap: str = "  ") -> Text:
    return Text(gap, no_wrap=True, end="").join(text(cell) for cell in cells)
