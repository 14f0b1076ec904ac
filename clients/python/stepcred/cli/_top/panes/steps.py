"""Open steps, and how often each may still ask."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from stepcred.cli._top import advice
from stepcred.cli._top.model import Key, Snapshot, Step
from stepcred.cli._top.panes.common import ago, at_home, budget, by_time, ends, tone, whose
from stepcred.cli._top.table import Cell, Column, Pane, Row, Tone
from stepcred.cli._top.words import clock, short

_UNTOUCHED = 1 << 32  # attempts left of a step that has asked for nothing yet: more than any budget


def rows(snapshot: Snapshot) -> list[Row]:
    domain = at_home(snapshot)
    keys: defaultdict[tuple[str, ...], list[Key]] = defaultdict(list)
    for key in snapshot.keys:
        if not key.hour:
            keys[key.workflow, key.run, key.step].append(key)
    return [_row(step, keys[_name(step)], domain, snapshot.at) for step in snapshot.steps]


def _row(step: Step, keys: Sequence[Key], domain: str, now: datetime) -> Row:
    scarcest = min(keys, key=lambda key: (key.left, key.scope), default=None)
    return Row(
        key=step.step_id,
        cells=(
            Cell(short(step.place.agent, domain)),
            Cell(step.place.workflow),
            Cell(step.place.run),
            Cell(step.place.step),
            Cell(str(step.attempt), Tone.LOOK if step.attempt > 1 else Tone.PLAIN),
            Cell(ago(step.opened_at, now)),
            ends(step.deadline, now),
            Cell(str(step.live_leases)),
            _left(scarcest),
        ),
        orders=(
            by_time(step.opened_at),
            by_time(step.deadline),
            scarcest.left if scarcest else _UNTOUCHED,
            _name(step),
        ),
        details=(
            ("step id", step.step_id),
            *whose(step.place),
            ("attempt", str(step.attempt)),
            ("opened at", clock(step.opened_at)),
            ("opened by", step.launcher or "its own agent"),
            ("deadline", clock(step.deadline)),
            ("last heartbeat", clock(step.last_heartbeat)),
            ("may ask for", ", ".join(step.scopes)),
            ("live leases", str(step.live_leases)),
            *((f"left of {key.scope}", budget(key)) for key in keys),
        ),
        commands=advice.for_step(step),
    )


def _left(key: Key | None) -> Cell:
    """Of the scope that has the fewest left."""
    if key is None:
        return Cell("-")
    if key.state == "OPEN":
        return Cell(f"{key.left}/{key.allowed} {key.scope}", Tone.PLAIN if key.left else Tone.LOOK)
    return Cell(f"{key.left}/{key.allowed} {key.state} {key.scope}", tone(key.state))


def _name(step: Step) -> tuple[str, ...]:
    return (step.place.workflow, step.place.run, step.place.step)


STEPS = Pane(
    name="Steps",
    columns=(
        Column(title="AGENT", least=13, most=32, keep_end=True),
        Column(title="WORKFLOW", least=11, most=30),
        Column(title="RUN", least=12, most=40, keep_end=True),
        Column(title="STEP", least=7, most=24),
        Column(title="TRY", least=3, most=3, right=True),
        Column(title="AGE", least=5, most=6, right=True),
        Column(title="ENDS", least=5, most=6, right=True),
        Column(title="LV", least=2, most=3, right=True),
        Column(title="LEFT", least=13, most=36),
    ),
    orders=("oldest", "ends next", "fewest left", "name"),
    rows=rows,
    nothing="no step is open",
)
