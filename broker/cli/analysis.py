"""`stepcred-broker scopes who-can | what-can | plan`: exact answers about whole maps, offline."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.maps import AsJson, instant, kinds, load_map, print_json, say
from broker.cli.options import FOUND, count, fail
from broker.cli.plan_text import markdown, styled
from broker.cli.revisions import GitError, open_revision
from broker.model import Bind, JsonValue
from broker.policy.analysis.cells import TooManyCombinations
from broker.policy.analysis.plan import plan as compare
from broker.policy.analysis.plan import question_json, rule_json
from broker.policy.analysis.reach import Entry, Reach
from broker.policy.analysis.reach import what_can as can_have
from broker.policy.analysis.reach import who_can as can_reach
from broker.policy.analysis.seen import listed
from broker.policy.durations import format_duration
from broker.policy.language.load import load_files
from broker.policy.problems import ScopeMapError, did_you_mean, show
from broker.policy.scope_map import ScopeMap

_Map = Annotated[Path, typer.Option("--map", metavar="FILE", help="The scope map.")]
_At = Annotated[str, typer.Option(help="From this time on: 2026-12-01T23:00Z.  (default: now)")]
_Side = Annotated[str, typer.Argument(metavar="MAP", help="A file, or REV:PATH of git.")]


class Form(Enum):
    """How a plan is printed."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


def who_can(
    scope: Annotated[str, typer.Argument(metavar="SCOPE")], map_file: _Map, *, at: _At = "", as_json: AsJson = False
) -> None:
    """Say who can ever have SCOPE from now on, and under which conditions: exactly, over all certificates."""
    scope_map = load_map(map_file)
    if scope not in scope_map.scopes:
        fail(os.EX_USAGE, f"no scope is named {show(scope)}{did_you_mean(scope, scope_map.scopes)}")
    try:
        _answer(can_reach(scope_map, scope, instant(at)), as_json=as_json)
    except TooManyCombinations as error:
        fail(os.EX_CONFIG, str(error))


def what_can(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="A SPIFFE ID; * stands for any one segment.")],
    map_file: _Map,
    *,
    at: _At = "",
    as_json: AsJson = False,
) -> None:
    """Say which scopes AGENT can ever have from now on, and under which conditions; and for whom it may open steps."""
    try:
        _answer(can_have(load_map(map_file), agent, instant(at)), as_json=as_json)
    except ValueError as error:
        fail(os.EX_USAGE, f"AGENT {show(agent)}: {error}")
    except TooManyCombinations as error:
        fail(os.EX_CONFIG, str(error))


def plan(
    old: _Side,
    new: _Side,
    *,
    at: _At = "",
    form: Annotated[Form, typer.Option("--format", help="How to print it.")] = Form.TEXT,
    as_json: AsJson = False,
) -> None:
    """Say what changes from OLD to NEW: who gains or loses what, and which bounds move. Exit 1: it widens.

    Each is a file, or REV:PATH as git writes it (main:maps/prod.yaml; REV:./PATH from this folder): then all files of
    the map are those of that revision. A file whose name has a colon is written ./NAME.
    """
    try:
        found = compare(_side(old), _side(new), instant(at))
    except TooManyCombinations as error:
        fail(os.EX_CONFIG, str(error))
    if as_json or form is Form.JSON:
        print_json(found.to_json())
    elif form is Form.MARKDOWN:
        typer.echo(markdown(found), nl=False)
    else:
        say(styled(found))
    raise typer.Exit(FOUND if found.widens else os.EX_OK)


def _side(operand: str) -> ScopeMap:
    revision, colon, path = operand.partition(":")
    if not colon or operand.startswith((".", "/")):
        return load_map(Path(operand))
    if not revision or not path:
        fail(os.EX_USAGE, f"{show(operand)}: expected a file, or REV:PATH")
    try:
        files, name = open_revision(revision, path, Path.cwd())
        return load_files(files, name, kinds()).map
    except GitError as error:
        fail(os.EX_CONFIG, f"{show(operand)}: {error}")
    except ScopeMapError as error:
        fail(os.EX_CONFIG, *(str(problem) for problem in error.problems))


# --- answers of who-can and what-can ---


def _answer(found: Reach, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "entries": [_entry_json(one) for one in found.entries],
                "never": [
                    {"scope": one.scope, "grant": one.grant.rule.name, "workload": one.workload.name, "why": one.reason}
                    for one in found.unused
                ],
                "launches": [
                    {
                        "launcher": one.name,
                        "workloads": sorted(one.workloads),
                        "workflows": None if one.workflows is None else sorted(one.workflows),
                    }
                    for one in found.launchers
                ],
            }
        )
        return
    for entry in found.entries:
        say(_entry_lines(entry))
    for launcher in found.launchers:
        flows = "any workflow" if launcher.workflows is None else f"workflows {listed({*launcher.workflows})}"
        say([("bold", f"may open steps for {listed({*launcher.workloads})}, {flows} ({launcher.rule})")])
    for lost in found.unused:
        say([("dim", f"never: {lost.scope} for {lost.workload.name} by {lost.grant.rule}: {lost.reason}")])
    say([("bold", f"{count(len(found.entries), 'way')} to have it" if found.entries else "nobody, and nothing")])


def _entry_lines(entry: Entry) -> list[tuple[str, str]]:
    flows = "any workflow" if entry.workflows is None else f"workflows {listed({*entry.workflows})}"
    scope = entry.scope
    bounds = f"tier {scope.tier.value}, ttl {format_duration(scope.ttl)}, max_ttl {format_duration(scope.max_ttl)}"
    if entry.approvals:
        bounds += f", after {count(entry.approvals, 'approval')}"
    if entry.bind is Bind.KEY:
        bounds += ", to the key of the step's first call only"
    lines = [("bold", f"{scope.name} for {entry.workload.name} {entry.workload.pattern.text}, {flows}")]
    lines += [("", f"  {one}") for one in entry.conditions]
    lines += [("", f"  {bounds}")]
    lines += [("yellow", f"  but {deny.rule} denies some of it") for deny in entry.exceptions]
    return [*lines, ("", f"  by {entry.grant.rule}")]


def _entry_json(entry: Entry) -> JsonValue:
    scope = entry.scope
    return {
        "scope": scope.name,
        "workload": entry.workload.name,
        "pattern": entry.workload.pattern.text,
        "workflows": None if entry.workflows is None else [*entry.workflows],
        "conditions": [*entry.conditions],
        "needs_launcher": entry.needs_launcher,
        "tier": scope.tier.value,
        "ttl_seconds": int(scope.ttl.total_seconds()),
        "max_ttl_seconds": int(scope.max_ttl.total_seconds()),
        "approvals": entry.approvals,
        "bind": entry.bind.value,
        "denies": [deny.rule.name for deny in entry.exceptions],
        "rule": rule_json(entry.grant.rule),
        "example": question_json(entry.witness),
    }
