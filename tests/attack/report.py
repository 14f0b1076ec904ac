"""The rows as a table for people and as JSON for tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.attack.harness import FIRST, MEGABYTE, P99, SETTLE, SIZES, SUCCESS, Row


def write_json(path: Path, about: dict[str, Any], rows: Sequence[Row]) -> None:
    """`{"about": …, "rows": […]}`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


def show(console: Console, about: dict[str, Any], rows: Sequence[Row]) -> None:
    """One line per attack; what the attackers say they did, and what failed, below."""
    table = Table(title="What honest agents meet meanwhile", title_justify="left")
    for column in (
        "attack",
        "s",
        "calls",
        "success",
        "p50 ms",
        "p99 ms",
        "new p99 ms",
        "cores",
        "MB",
        "back s",
        "db kB",
    ):
        table.add_column(column, justify="left" if column == "attack" else "right")
    table.add_column("")
    for row in rows:
        problems = ", ".join((*row.problems, *row.slow))
        table.add_row(
            row.attack,
            f"{row.seconds:.0f}",
            f"{row.calls:,}",
            f"{row.success:.2%}",
            f"{row.p50_ms:.1f}",
            f"{row.p99_ms:.0f}",
            f"{row.new_p99_ms:.0f}",
            f"{row.cpu:.2f}",
            f"{row.memory_before:.0f} > {row.memory_peak:.0f} > {row.memory_after:.0f}",
            f"{row.settled_s:.0f}" if row.settled_s >= 0 else "never",
            f"{row.growth / 1000:,.0f}",
            f"[red]{problems}[/red]" if problems else "[green]ok[/green]",
        )
    console.print(table)
    for row in rows:
        did = ", ".join(f"{count:,} {what}" for what, count in row.told.items())
        failed = "; ".join(f"{count} x {what}" for what, count in row.failed.items())
        if did or failed:
            console.print(f"{row.attack}: {did}{'; failed: ' + failed if failed else ''}", style="dim", highlight=False)
    grown = SIZES[about["size"]].grown
    console.print(
        f"asked: success {SUCCESS:.1%}, p99 {P99:.0f} ms, memory back in {SETTLE:.0f} s to {grown:.0%} of before it, "
        f"at the end to {grown:.0%} of calm, and of the first crowd to {FIRST:.0%}; database {MEGABYTE / 1000:,.0f} kB",
        style="dim",
        highlight=False,
    )
    console.print("; ".join(f"{name}: {value}" for name, value in about.items()), style="dim", highlight=False)
