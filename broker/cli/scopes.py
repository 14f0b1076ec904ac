"""`stepcred-broker scopes`: look at a scope map, offline."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Never

import typer
from rich.console import Console
from rich.text import Text

from broker.cli.options import count, fail
from broker.cli.provision import provision
from broker.cli.signing import keygen, sign
from broker.cli.verifying import verify
from broker.clock import SystemClock
from broker.errors import StoreError
from broker.identity.spiffe import SpiffeIdError, parse_spiffe_id
from broker.model import NAME, JsonValue, ScopeKind
from broker.policy.decision import Allowed, Denied
from broker.policy.durations import parse_instant
from broker.policy.expectations import Outcome, request_for, run_tests
from broker.policy.explain import explain as tell
from broker.policy.lint import warnings
from broker.policy.load import load
from broker.policy.problems import Problem, ScopeMapError, show
from broker.policy.scope_map import ScopeMap

FOUND = 1  # looked, and found something

app = typer.Typer(no_args_is_help=True, help="Look at a scope map; all but provision --diff offline.")
app.command("provision")(provision)
app.command("sign")(sign)
app.command("verify")(verify)
app.command("keygen")(keygen)

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


@app.command("explain")
def explain(
    agent: Annotated[str, typer.Argument(metavar="[AGENT]", help="SPIFFE ID.")] = "",
    scope: Annotated[str, typer.Argument(metavar="[SCOPE]")] = "",
    *,
    map_file: Annotated[Path | None, typer.Option("--map", metavar="FILE", help="The scope map.")] = None,
    workflow: Annotated[str, typer.Option(help="Claimed.  (default: what the certificate says)")] = "",
    run: Annotated[str, typer.Option(help="Claimed.")] = "",
    step: Annotated[str, typer.Option(help="Claimed.")] = "",
    at: Annotated[str, typer.Option(help="2026-12-01T23:00Z.  (default: now)")] = "",
    denial: Annotated[str, typer.Option(metavar="REF", help="The reference id that a refused agent was told.")] = "",
    database: Annotated[Path | None, typer.Option(help="With --denial: the broker's database.")] = None,
    as_json: _Json = False,
) -> None:
    """Say which rule decides and what would change it. Exit 1: denied.

    Either AGENT SCOPE --map FILE, or --denial REF --database PATH (with --map FILE: decided again by that map).
    """
    if denial:
        if database is None or agent:
            fail(os.EX_USAGE, "--denial REF needs --database PATH, and no AGENT")
        _explain_denial(denial, database, map_file, as_json=as_json)
    if not (agent and scope and map_file):
        fail(os.EX_USAGE, "give AGENT SCOPE --map FILE, or --denial REF --database PATH")
    claims: dict[str, str | None] = {"workflow": workflow, "run": run, "step": step}
    _check_words(agent, scope, claims)
    _explain(_load(map_file), agent, scope, _instant(at), claims, as_json=as_json)


def _check_words(agent: str, scope: str, claims: Mapping[str, str | None]) -> None:
    """What no broker would be asked has no answer either."""
    try:
        parse_spiffe_id(agent)
    except SpiffeIdError as error:
        fail(os.EX_USAGE, f"AGENT {show(agent)}: {error}")
    for name, word in {"SCOPE": scope, **claims}.items():
        if word and NAME.fullmatch(word) is None:
            fail(os.EX_USAGE, f"{name} {show(word)} must match {NAME.pattern}")


def _explain(
    scope_map: ScopeMap, agent: str, scope: str, now: datetime, claims: dict[str, str | None], *, as_json: bool
) -> Never:
    story = tell(scope_map, request_for(scope_map, agent=agent, scope=scope, now=now, claims=claims))
    allowed = isinstance(story.decision, Allowed)
    if as_json:
        _print_json(story.to_json())
    else:
        _say(_coloured(story.lines()))
    raise typer.Exit(os.EX_OK if allowed else FOUND)


def _explain_denial(reference: str, database: Path, map_file: Path | None, *, as_json: bool) -> Never:
    record = _denial(reference, database)
    again = None
    if map_file is not None:
        scope_map = _load(map_file)
        data = record.get("data", {})
        digest = str(data.get("definition_digest") or "")
        claims = {name: record.get(name) for name in ("workflow", "run", "step")}
        now = datetime.fromisoformat(record["at"])
        who, what = record.get("agent", ""), record.get("scope", "")
        request = request_for(
            scope_map,
            agent=who,
            scope=what,
            now=now,
            claims=claims,
            proven=bool(data.get("proven")),
            definition_digest=digest,
        )
        again = tell(scope_map, request)
    if as_json:
        _print_json({"record": record, "today": again.to_json() if again else None})
    else:
        _say([("bold", f"denial {show(reference)}, as the journal has it")])
        _say(
            [
                ("", f"  {name}: {_value(record[name])}")
                for name in sorted(record)
                if name not in ("kind", "reference_id")
            ]
        )
        if again is not None:
            _say([("bold", f"decided again by {map_file}")])
            _say(_coloured(["  " + line for line in again.lines()]))
    raise typer.Exit(FOUND)


def _denial(reference: str, database: Path) -> dict[str, JsonValue]:
    from broker.store.sqlite import open_readonly

    try:
        with open_readonly(database) as store:
            entry = store.read(lambda tx: tx.denial(reference))
    except StoreError as error:
        fail(os.EX_CONFIG, str(error))
    if entry is None:
        fail(FOUND, f"no denial {show(reference)} in {database}")
    record: dict[str, JsonValue] = json.loads(entry.body)
    return record


def _value(value: JsonValue) -> str:
    return show(value) if isinstance(value, str) else json.dumps(value)


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


def _coloured(lines: Iterable[str]) -> list[tuple[str, str]]:
    styles = {"ALLOWED": "bold green", "DENIED": "bold red"}
    return [(styles.get((line.split() or [""])[0], ""), line) for line in lines]


def _say(lines: Iterable[tuple[str, str]]) -> None:
    """Styled text; never parsed as markup, since agents' words are in it."""
    console = Console(soft_wrap=True, highlight=False)
    for style, line in lines:
        console.print(Text(line, style=style))


def _print_json(value: Mapping[str, JsonValue]) -> None:
    typer.echo(json.dumps(value, indent=2))
