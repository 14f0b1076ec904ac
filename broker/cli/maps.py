"""What the commands about scope maps share: the map's file, the time, and how results are shown."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from broker.cli.options import fail
from broker.clock import SystemClock
from broker.model import JsonValue, ScopeKind
from broker.policy.durations import parse_instant
from broker.policy.language.load import load
from broker.policy.problems import ScopeMapError
from broker.policy.scope_map import ScopeMap

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
MapFile = Annotated[Path, typer.Argument(metavar="MAP", help="The scope map.")]


def kinds() -> Mapping[str, ScopeKind]:
    """Of scope: every provider's block."""
    from broker.wiring.adapters import scope_kinds

    return scope_kinds()


def existing(file: Path) -> Path:
    """Ends with 78 when the file is not there."""
    if not file.is_file():
        fail(os.EX_CONFIG, f"{file}: no such file")
    return file


def load_map(file: Path) -> ScopeMap:
    """Ends with 78 when it does not load."""
    try:
        return load(existing(file), kinds())
    except ScopeMapError as error:
        fail(os.EX_CONFIG, *(str(problem) for problem in error.problems))


def instant(text: str, option: str = "--at") -> datetime:
    """The time that an option says, else now. Ends with 64 when it is none."""
    if not text:
        return SystemClock().now()
    try:
        return parse_instant(text)
    except ValueError as error:
        fail(os.EX_USAGE, f"{option}: {error}")


def say(lines: Iterable[tuple[str, str]]) -> None:
    """Styled text, as (style, line); never parsed as markup, since agents' words are in it."""
    console = Console(soft_wrap=True, highlight=False)
    for style, line in lines:
        console.print(Text(line, style=style))


def print_json(value: Mapping[str, JsonValue]) -> None:
    """One object."""
    typer.echo(json.dumps(value, indent=2))
