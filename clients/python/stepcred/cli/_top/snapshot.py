"""One picture instead of the live view: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from shutil import get_terminal_size
from typing import Any

from rich.text import Text

from stepcred.cli._admin._output import emit, is_terminal, say
from stepcred.cli._top import head
from stepcred.cli._top.head import Answered
from stepcred.cli._top.model import Snapshot
from stepcred.cli._top.paint import joined, text
from stepcred.cli._top.panes import PANES
from stepcred.cli._top.table import GAP, Cell, Pane, Row, arranged, needed, shown, widths


def show(snapshot: Snapshot) -> None:
    """On standard output. A pane without rows is one line; nothing is cut where the output is no terminal."""
    known = Answered(snapshot=snapshot)
    lines = [joined(head.title(known, paused=False)), joined(head.counts(known)), text(head.remark(known))]
    for line in lines:
        if line.plain:
            emit(line)
    for pane in PANES:
        rows = arranged(pane.rows(snapshot), order=0, needle="")
        say()
        emit(Text(f"{pane.name.upper()} {len(rows)}" if rows else f"{pane.name.upper()}: {pane.nothing}", style="bold"))
        for line in _lines(pane, rows) if rows else ():
            emit(line)
        if pane.more(snapshot):
            say(pane.more(snapshot))


def as_json(snapshot: Snapshot) -> str:
    """The fields of the model, times in ISO 8601. Lists that are not whole stand in `cut`."""
    return json.dumps(asdict(snapshot), indent=2, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return sorted(value)  # a frozenset


def _lines(pane: Pane, rows: Sequence[Row]) -> Iterator[Text]:
    columns = pane.columns
    sizes = widths(columns, rows, get_terminal_size().columns) if is_terminal() else needed(columns, rows)
    heads = [Cell(column.title) for column in columns]
    for cells in (heads, *(row.cells for row in rows)):
        fitted = [
            Cell(shown(cell, column, size).ljust(size), cell.tone)
            for cell, column, size in zip(cells, columns, sizes, strict=True)
        ]
        line = joined(fitted, " " * GAP)
        line.rstrip()
        yield line
