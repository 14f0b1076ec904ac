"""The lines above the panes: which broker, how it is, and what needs somebody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepcred._errors import BrokerUnavailable, DeadlineExceeded, StepcredError
from stepcred.cli._top.model import Snapshot
from stepcred.cli._top.table import Cell, Pane, Tone
from stepcred.cli._top.words import said, span


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What is known: the last answer, and why there is no newer one."""

    snapshot: Snapshot | None = None
    problem: StepcredError | None = None


def title(known: Answered, *, paused: bool) -> list[Cell]:
    """Who answers, of when it is, and what stands still."""
    snapshot = known.snapshot
    cells = [Cell("stepcred", Tone.PLAIN)]
    if snapshot is None:
        return [*cells, Cell("no answer yet", Tone.BAD)]
    health = snapshot.health
    cells += [Cell(health.environment), Cell(f"epoch {health.epoch}"), Cell(f"{snapshot.at:%H:%M:%S} UTC")]
    cells += [Cell(f"steps {health.open_steps}"), Cell(f"leases {health.live}")]
    if health.freezes:
        cells.append(Cell(f"FROZEN {health.freezes}", Tone.BAD))
    if health.draining:
        cells.append(Cell("DRAINING", Tone.LOOK))
    if paused:
        cells.append(Cell("PAUSED", Tone.LOOK))
    return cells


def counts(known: Answered) -> list[Cell]:
    """What needs somebody."""
    snapshot = known.snapshot
    if snapshot is None:
        return []
    health = snapshot.health
    oldest = f" ({span(snapshot.at - health.oldest_revoking)})" if health.overdue and health.oldest_revoking else ""
    return [
        _count("overdue", health.overdue, Tone.BAD, oldest),
        _count("alerts", health.alerts_firing, Tone.BAD),
        _count("locked", health.keys_locked, Tone.BAD),
        _count("held", health.keys_held, Tone.BAD),
        _count("approvals", health.approvals_waiting, Tone.LOOK),
    ]


def remark(known: Answered) -> Cell:
    """The one line that may be empty. No answer is the first thing to know: what is below it is old."""
    if known.problem is not None:
        silent = isinstance(known.problem, (BrokerUnavailable, DeadlineExceeded))
        since = f"since {known.snapshot.at:%H:%M:%S} UTC" if known.snapshot else "yet"
        return Cell(f"{'no answer' if silent else 'refused'} {since}: {said(str(known.problem))}", Tone.BAD)
    problems = known.snapshot.health.problems if known.snapshot else ()
    return Cell("; ".join(problems), Tone.BAD)


def tabs(panes: Sequence[Pane], rows: Sequence[int], chosen: int) -> list[Cell]:
    """With their keys. The one that is shown stands in brackets."""
    cells = []
    for n, (pane, count) in enumerate(zip(panes, rows, strict=True)):
        text = f"{n + 1} {pane.name} {count}"
        cells.append(Cell(f"[{text}]" if n == chosen else f" {text} "))
    return cells


def _count(name: str, number: int, tone: Tone, more: str = "") -> Cell:
    return Cell(f"{name} {number}{more}", tone if number else Tone.PLAIN)
