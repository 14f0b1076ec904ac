"""`stepcred-broker scopes explain`: why a question is answered as it is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Never

import typer

from broker.cli.maps import FOUND, AsJson, instant, load_map, print_json, say
from broker.cli.options import fail
from broker.errors import StoreError
from broker.identity.spiffe import SpiffeIdError, parse_spiffe_id
from broker.model import NAME, JsonValue
from broker.policy.decision import Allowed
from broker.policy.expectations import request_for
from broker.policy.explain import explain as tell
from broker.policy.problems import show
from broker.policy.scope_map import ScopeMap


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
    as_json: AsJson = False,
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
    _explain(load_map(map_file), agent, scope, instant(at), claims, as_json=as_json)


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
        print_json(story.to_json())
    else:
        say(_coloured(story.lines()))
    raise typer.Exit(os.EX_OK if allowed else FOUND)


def _explain_denial(reference: str, database: Path, map_file: Path | None, *, as_json: bool) -> Never:
    record = _denial(reference, database)
    again = None
    if map_file is not None:
        scope_map = load_map(map_file)
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
        print_json({"record": record, "today": again.to_json() if again else None})
    else:
        say([("bold", f"denial {show(reference)}, as the journal has it")])
        say(
            [
                ("", f"  {name}: {_value(record[name])}")
                for name in sorted(record)
                if name not in ("kind", "reference_id")
            ]
        )
        if again is not None:
            say([("bold", f"decided again by {map_file}")])
            say(_coloured(["  " + line for line in again.lines()]))
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


def _coloured(lines: Iterable[str]) -> list[tuple[str, str]]:
    styles = {"ALLOWED": "bold green", "DENIED": "bold red"}
    return [(styles.get((line.split() or [""])[0], ""), line) for line in lines]
