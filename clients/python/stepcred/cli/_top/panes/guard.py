"""Keys of the guard that refuse. Those that are open stand beside their steps."""

from __future__ import annotations

from datetime import datetime

from stepcred.cli._top import advice
from stepcred.cli._top.model import Key, Snapshot
from stepcred.cli._top.panes.common import budget, by_time, tone
from stepcred.cli._top.table import Cell, Column, Pane, Row
from stepcred.cli._top.words import clock, until

_WORST = {"HELD": 0, "LOCKED": 1}


def rows(snapshot: Snapshot) -> list[Row]:
    return [_row(key, snapshot.at) for key in snapshot.keys if key.state != "OPEN"]


def _row(key: Key, now: datetime) -> Row:
    workload = " ".join((key.workload, *(f"{name}={value}" for name, value in key.captures)))
    place = workload if key.hour else f"{key.workflow}/{key.run}/{key.step}"
    return Row(
        key=key.key,
        cells=(
            Cell(key.state, tone(key.state)),
            Cell("hour" if key.hour else "step"),
            Cell(key.scope),
            Cell(key.tier),
            Cell(f"{key.spent}/{key.allowed}"),
            Cell("decision" if key.state == "HELD" else until(key.until, now)),
            Cell(place),
            Cell(key.reset_by),
        ),
        orders=(
            (_WORST.get(key.state, len(_WORST)), by_time(key.until)),
            by_time(key.until),
            (key.scope, place),
            (place, key.scope),
        ),
        details=(
            ("key", key.key),
            ("state", key.state),
            ("counts", "the workload's rolling hour" if key.hour else "one step"),
            ("workload", workload),
            ("workflow", key.workflow),
            ("run", key.run),
            ("step", key.step),
            ("scope", key.scope),
            ("left", budget(key)),
            ("let in", f"{key.admitted} of {key.ceiling}"),
            ("until", "an operator decides" if key.state == "HELD" else clock(key.until)),
            ("last reset by", " ".join((key.reset_by, clock(key.reset_at))).strip()),
        ),
        commands=advice.for_key(key),
    )


GUARD = Pane(
    name="Guard",
    columns=(
        Column(title="STATE", least=7, most=7),
        Column(title="OF", least=4, most=4),
        Column(title="SCOPE", least=14, most=36),
        Column(title="TIER", least=8, most=8),
        Column(title="SPENT", least=5, most=9, right=True),
        Column(title="UNTIL", least=8, most=8, right=True),
        Column(title="WORKFLOW/RUN/STEP", least=18, most=90, keep_end=True),
        Column(title="RESET BY", least=8, most=16),
    ),
    orders=("worst", "opens next", "scope", "name"),
    rows=rows,
    nothing="no key is cooling, locked or held",
)
