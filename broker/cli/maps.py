"""What the commands about scope maps share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from broker.cli.options import fail
from broker.model import JsonValue, ScopeKind
from broker.policy.load import load
from broker.policy.problems import ScopeMapError
from broker.policy.scope_map import ScopeMap

FOUND = 1  # looked, and found something


def kinds() -> Mapping[str, ScopeKind]:
    """Every provider's."""
    from broker.wiring.adapters import scope_kinds

    return scope_kinds()


def existing(file: Path) -> Path:
    """Ends the command when there is no such file."""
    if not file.is_file():
        fail(os.EX_CONFIG, f"{file}: no such file")
    return file


def load_map(file: Path) -> ScopeMap:
    """Ends the command when it does not load."""
    try:
        return load(existing(file), kinds())
    except ScopeMapError as error:
        fail(os.EX_CONFIG, *(str(problem) for problem in error.problems))


def say(lines: Iterable[tuple[str, str]]) -> None:
    """Styled text; never parsed as markup, since agents' words are in it."""
    console = Console(soft_wrap=True, highlight=False)
    for style, line in lines:
        console.print(Text(line, style=style))


def print_json(value: Mapping[str, JsonValue]) -> None:
    """One object."""
    typer.echo(json.dumps(value, indent=2))
