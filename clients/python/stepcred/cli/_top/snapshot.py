"""One picture instead of the live view: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from stepcred.cli._admin._output import emit, say
from stepcred.cli._top import head
from stepcred.cli._top.head import Answered
from stepcred.cli._top.model import Snapshot
from stepcred.cli._top.paint import joined, text
from stepcred.cli._top.panes import PANES
from stepcred.cli._top.table import Pane, Row, arranged


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
        if rows:
            emit(_table(pane, rows))
        if pane.more(snapshot):
            say(pane.more(snapshot))


def as_json(snapshot: Snapshot) -> str:
    """The fields of the model, times in ISO 8601. Lists that are not whole stand in `cut`."""
    return json.dumps(asdict(snapshot), indent=2, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return sorted(value)  # a frozenset


def _table(pane: Pane, rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in pane.columns:
        table.add_column(column.title, justify="right" if column.right else "left")
    for row in rows:
        table.add_row(*(text(cell) for cell in row.cells))
    return table
