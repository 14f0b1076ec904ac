"""The answer for people, a table, and for programs."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from stepcred.cli._doctor import LOOKS, Looked
from stepcred.cli._doctor._finding import Level

_MARKS = {Level.OK: "✓", Level.WARNING: "!", Level.PROBLEM: "✗", Level.SKIPPED: "-"}
_ASCII = {Level.OK: "ok", Level.WARNING: "!", Level.PROBLEM: "X", Level.SKIPPED: "-"}
_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red", Level.SKIPPED: "dim"}
_NAME = max(len(look.name) for look in LOOKS) + 2
_INDENT = " " * (3 + _NAME)


def show(looked: list[Looked]) -> None:
    """On standard output. A fix has a line of its own, which is never broken: it is for pasting."""
    marks = _MARKS if _can_write("✓✗") else _ASCII
    console = Console(soft_wrap=True, markup=False, highlight=False)
    for one in looked:
        for finding in one.findings:
            mark = Text(f"{marks[finding.level]:<3}", style=_STYLES[finding.level])
            console.print(mark.append(f"{one.name:<{_NAME}}{finding.text}", style="default"))
            if finding.fix:
                console.print(Text(f"{_INDENT}fix: {finding.fix}", style="cyan"))


def as_json(looked: list[Looked], code: int) -> dict[str, Any]:
    """Stable names: look, level, text, fix."""
    findings = [
        {"look": one.name, "level": finding.level.value, "text": finding.text, "fix": finding.fix}
        for one in looked
        for finding in one.findings
    ]
    return {"exit_code": code, "findings": findings}


def _can_write(text: str) -> bool:
    try:
        text.encode((sys.stdout and sys.stdout.encoding) or "ascii")
    except UnicodeEncodeError:
        return False
    return True
