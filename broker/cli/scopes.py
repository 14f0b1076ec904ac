"""`stepcred-broker scopes`: look at a scope map, offline."""

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

from broker.cli.explain import explain
from broker.cli.options import count, fail
from broker.cli.provision import provision
from broker.cli.usage import simulate_command, suggest_command
from broker.clock import SystemClock
from broker.model import JsonValue, ScopeKind
from broker.policy.decision import Denied
from broker.policy.durations import parse_instant
from broker.policy.expectations import Outcome, run_tests
from broker.policy.lint import warnings
from broker.policy.load import load
from broker.policy.problems import Problem, ScopeMapError
from broker.policy.scope_map import ScopeMap

FOUND = 1  # looked, and found something

app = typer.Typer(no_args_is_help=True, help="Look at a scope map; all but provision --diff offline.")
app.command("provision")(provision)
app.command("explain")(explain)
app.command("simulate")(simulate_command)
app.command("suggest")(suggest_command)

_Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
_File = Annotated[Path, typer.Argument(metavar="FILE", help="The scope map.")]


@app.command("lint")
def lint(file: _File, *, as_json: _Json = False) -> None:
    """Say everything that keeps a map from loading, and what is probably not meant. Exit 1: it does not load."""
    found: tuple[Problem, ...] = ()
    hints: tuple[Problem, ...] = ()
    try:
        hints = warnings(load(_existing(file), _kinds()))
    except ScopeMapError as error:
        found = error.problems
    if as_json:
        _print_json({"problems": [_place(one) for one in found], "warnings": [_place(one) for one in hints]})
    else:
        _say([("red", f"error: {one}") for one in found] + [("yellow", f"warning: {one}") for one in hints])
        _say(
            [
                ("red", count(len(found), "error"))
                if found
                else ("green", f"{file}: loads, {count(len(hints), 'warning')}")
            ]
        )
    raise typer.Exit(FOUND if found else os.EX_OK)


@app.command("test")
def run_expectations(
    file: _File,
    *,
    at: Annotated[str, typer.Option(help="Time of the tests that say none.  (default: now)")] = "",
    as_json: _Json = False,
) -> None:
    """Run the map's `tests:`. Exit 1: one of them failed."""
    outcomes = run_tests(_load(file), _instant(at))
    failed = [outcome for outcome in outcomes if not outcome.passed]
    if as_json:
        _print_json({"passed": len(outcomes) - len(failed), "failed": [_outcome(one) for one in failed]})
    else:
        for one in failed:
            _say([("red", f"FAILED {one.test.rule.name} ({one.test.rule.file}:{one.test.rule.line}): {_told(one)}")])
        _say([("red" if failed else "green", f"{len(outcomes) - len(failed)} passed, {len(failed)} failed")])
    raise typer.Exit(FOUND if failed else os.EX_OK)


def _kinds() -> Mapping[str, ScopeKind]:
    from broker.wiring.adapters import scope_kinds

    return scope_kinds()


def _existing(file: Path) -> Path:
    if not file.is_file():
        fail(os.EX_CONFIG, f"{file}: no such file")
    return file


def _load(file: Path) -> ScopeMap:
    try:
        return load(_existing(file), _kinds())
    except ScopeMapError as error:
        fail(os.EX_CONFIG, *(str(problem) for problem in error.problems))


def _instant(text: str) -> datetime:
    if not text:
        return SystemClock().now()
    try:
        return parse_instant(text)
    except ValueError as error:
        fail(os.EX_USAGE, f"--at: {error}")


def _outcome(outcome: Outcome) -> JsonValue:
    test = outcome.test
    return {"line": test.rule.line, "as": test.agent, "ask": test.ask, "told": _told(outcome)}


def _told(outcome: Outcome) -> str:
    expected = outcome.test.expect
    expected += f" ({outcome.test.reason.value})" if outcome.test.reason else ""
    decision = outcome.decision
    if isinstance(decision, Denied):
        return f"expected {expected}, denied {decision.reason.value}: {decision.message}"
    after = f" after {count(decision.approvals, 'approval')}" if decision.approvals else ""
    return f"expected {expected}, allowed{after} by {decision.rule}"


def _place(problem: Problem) -> JsonValue:
    return {"file": problem.file, "line": problem.line, "column": problem.column, "message": problem.message}


def _say(lines: Iterable[tuple[str, str]]) -> None:
    """Styled text; never parsed as markup, since agents' words are in it."""
    console = Console(soft_wrap=True, highlight=False)
    for style, line in lines:
        console.print(Text(line, style=style))


def _print_json(value: Mapping[str, JsonValue]) -> None:
    typer.echo(json.dumps(value, indent=2))
