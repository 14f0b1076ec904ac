"""The figures as a table for people and as build/bench.json for tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Better, Figure, Parts, Ratio, Spread, Summary, Value
from tests.bench.reach import in_words, reached, target_of

LEAST_CPU_US = 20  # per operation; below, a process has nothing to do with it


def write_json(path: Path, about: dict[str, Any], figures: Sequence[Figure]) -> None:
    """`{"about": …, KEY: {…}}`, one entry per figure; with `target` and `reached` where something must be reached."""
    body = {"about": about} | {figure.key: _body(figure) for figure in figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=2, default=_plain) + "\n")


def _body(figure: Figure) -> dict[str, Any]:
    body = asdict(figure)
    if target := target_of(figure):
        bounds = {
            name: {side: value for side, value in asdict(bound).items() if value is not None}
            for name, bound in target.items()
        }
        body |= {"target": bounds, "reached": reached(figure)}
    return body


def show(console: Console, about: dict[str, Any], figures: Sequence[Figure]) -> None:
    """Ratios first, then the sides they were made of, then what has no other side."""
    console.print(_ratios([figure for figure in figures if isinstance(figure, Ratio)]))
    console.print(_sides(figures))
    console.print(_values([figure for figure in figures if isinstance(figure, Value)]))
    console.print("; ".join(f"{name}: {value}" for name, value in about.items()), style="dim", highlight=False)
    missed = [figure.key for figure in figures if reached(figure) is False]
    console.print(f"not reached: {', '.join(missed) or 'nothing'}", highlight=False)


def _ratios(found: Sequence[Ratio]) -> Table:
    table = Table(title="Ratios, taken round by round", title_justify="left")
    for column in ("key", "what", "in flight", "median", "range", "rounds", "to be reached"):
        table.add_column(column, justify="left" if column in ("key", "what", "to be reached") else "right")
    for one in found:
        sign = "more is better" if one.better is Better.MORE else "less is better"
        table.add_row(
            one.key,
            f"{one.what} [dim]({sign})[/dim]",
            str(one.concurrency),
            f"[bold]{one.ratio.median:.3g}x[/bold]",
            f"{one.ratio.low:.2f}-{one.ratio.high:.2f}",
            str(len(one.rounds)),
            in_words(one),
        )
    return table


def _sides(figures: Sequence[Figure]) -> Table:
    table = Table(title="The sides, absolute on this machine, now", title_justify="left")
    for column in ("key", "side", "per second", "p50 ms", "p99 ms", "calls", "CPU µs per operation"):
        table.add_column(column, justify="right" if column.startswith(("per", "p50", "p99", "calls")) else "left")
    for figure in figures:
        sides = (figure.ours, figure.theirs) if isinstance(figure, Ratio) else getattr(figure, "parts", ())
        for number, side in enumerate(sides):
            first = figure.key if number == 0 else ""
            name = f"{side.side} {side.part}" if isinstance(figure, Parts) else side.side
            cpu = _cpu(side) if first or isinstance(figure, Ratio) else ""  # parts of one operation share it
            table.add_row(first, name, *_numbers(side), cpu, end_section=number == len(sides) - 1)
    return table


def _numbers(side: Summary) -> tuple[str, str, str, str]:
    return f"{side.per_second.median:,.0f}", f"{side.p50_ms:.2f}", f"{side.p99_ms:.2f}", f"{side.calls:,}"


def _cpu(side: Summary) -> str:
    used = sorted(side.cpu_us.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {cpu:,}" for name, cpu in used if cpu >= LEAST_CPU_US)


def _values(found: Sequence[Value]) -> Table:
    table = Table(title="Other figures", title_justify="left")
    for column in ("key", "what", "median", "range", "to be reached", "made of"):
        table.add_column(column, justify="right" if column in ("median", "range") else "left")
    for one in found:
        table.add_row(
            one.key,
            one.what,
            f"[bold]{one.value.median:.2f} {one.unit}[/bold]",
            _range(one.value),
            in_words(one),
            ", ".join(f"{name} {value:,.4g}" for name, value in one.detail.items()),
        )
    return table


def _range(value: Spread) -> str:
    return "" if value.low == value.high else f"{value.low:.2f}-{value.high:.2f}"


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(type(value))
