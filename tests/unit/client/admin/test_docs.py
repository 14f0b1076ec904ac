"""Every `stepcred admin …` that a document or a message names exists, with its options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from stepcred.cli import _app

ROOT = Path(__file__).parents[4]
_NAMED = re.compile(r"stepcred admin ([a-z][^`\n\"'|]*)")


def named() -> Iterator[tuple[str, str]]:
    """Where, and what follows `stepcred admin`."""
    for path in [*ROOT.glob("docs/*.md"), ROOT / "README.md", *ROOT.glob("clients/python/stepcred/**/*.py")]:
        for found in _NAMED.finditer(path.read_text()):
            yield path.name, found.group(1)


def command(name: str, words: list[str]) -> tuple[Any, list[str]]:
    """The command that these words lead to, and the rest of them."""
    found: Any = typer.main.get_command(_app.app)
    found = found.commands["admin"]
    while hasattr(found, "commands"):
        assert words, f"{name}: stepcred admin … names a group, not a command of it"
        assert words[0] in found.commands, f"{name}: no command {words[0]}"
        found, words = found.commands[words[0]], words[1:]
    return found, words


@pytest.mark.parametrize(("where", "text"), sorted(set(named())))
def test_what_is_named_exists(where: str, text: str) -> None:
    found, rest = command(where, text.split())
    known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
    asked = {word.rstrip(".,:;)") for word in rest if word.startswith("--") and word != "--"}
    assert asked <= known


def test_every_command_is_in_the_table_of_its_document() -> None:
    text = (ROOT / "docs" / "admin.md").read_text().partition("| exit code |")[0]
    admin: Any = typer.main.get_command(_app.app)
    for name, found in admin.commands["admin"].commands.items():
        assert f"`{name}" in text, name
        for below in getattr(found, "commands", {}):
            assert f"`{name} {below}`" in text or f"`{below}`" in text, (name, below)
