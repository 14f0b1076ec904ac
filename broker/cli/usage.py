"""`scopes simulate` and `scopes suggest`: a map against what was really asked."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.journal import JournalFile, records, watched
from broker.cli.maps import AsJson, load_map, print_json, say
from broker.cli.options import FOUND, fail
from broker.policy.durations import parse_instant
from broker.policy.usage import advice, told
from broker.policy.usage.measure import measure
from broker.policy.usage.simulate import simulate
from broker.policy.usage.suggest import suggest

_Since = Annotated[
    str, typer.Option(metavar="INSTANT", help="Only requests from then on: 2026-12-01 or 2026-12-01T23:00Z.")
]
_Until = Annotated[str, typer.Option(metavar="INSTANT", help="Only requests before then.")]


def simulate_command(
    file: Annotated[Path, typer.Argument(metavar="NEW", help="The candidate map.")],
    journal: JournalFile,
    *,
    since: _Since = "",
    until: _Until = "",
    as_json: AsJson = False,
) -> None:
    """Replay recorded requests, each at its own time, against a candidate map. Exit 1: somebody is answered differently."""
    begin, end = _period(since, until)
    result = simulate(load_map(file), watched(records(journal)), since=begin, until=end)
    if as_json:
        print_json(told.to_json(result))
    else:
        say(told.lines(result))
    raise typer.Exit(FOUND if result.found else os.EX_OK)


def suggest_command(
    file: Annotated[Path, typer.Argument(metavar="MAP", help="The scope map.")],
    journal: JournalFile,
    *,
    since: _Since = "",
    until: _Until = "",
    as_json: AsJson = False,
) -> None:
    """Say what the map gives and nobody used, as YAML to paste; it only narrows. Exit 1: there is something."""
    begin, end = _period(since, until)
    found = suggest(measure(load_map(file), watched(records(journal)), since=begin, until=end))
    if as_json:
        print_json(advice.to_json(found))
    else:
        say(advice.lines(found))
    raise typer.Exit(FOUND if found.suggestions else os.EX_OK)


def _period(since: str, until: str) -> tuple[datetime | None, datetime | None]:
    found: list[datetime | None] = []
    for option, text in (("--since", since), ("--until", until)):
        try:
            found.append(parse_instant(text) if text else None)
        except ValueError as error:
            fail(os.EX_USAGE, f"{option}: {error}")
    return found[0], found[1]
