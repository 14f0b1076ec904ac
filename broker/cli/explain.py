"""`scopes explain`: why an agent is answered as it is, or why one was refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Never

import typer

from broker.cli.journal import find_denial
from broker.cli.maps import load_map, print_json, say
from broker.cli.options import FOUND, fail
from broker.clock import SystemClock
from broker.identity.spiffe import SpiffeIdError, parse_spiffe_id
from broker.model import NAME
from broker.policy.decision import AccessRequest, Allowed
from broker.policy.durations import parse_instant
from broker.policy.expectations import request_for
from broker.policy.explain import explain as tell
from broker.policy.language.schema.values import MOST_ATTEMPTS, check_digest
from broker.policy.problems import show
from broker.policy.scope_map import ScopeMap
from broker.policy.usage.denial import story
from broker.policy.windows import read_address


def explain(
    agent: Annotated[str, typer.Argument(metavar="[AGENT]", help="SPIFFE ID.")] = "",
    scope: Annotated[str, typer.Argument(metavar="[SCOPE]")] = "",
    *,
    map_file: Annotated[Path | None, typer.Option("--map", metavar="FILE", help="The scope map.")] = None,
    workflow: Annotated[str, typer.Option(help="Claimed.  (default: what the certificate says)")] = "",
    run: Annotated[str, typer.Option(help="Claimed.")] = "",
    step: Annotated[str, typer.Option(help="Claimed.")] = "",
    proven: Annotated[bool, typer.Option("--proven", help="A launcher says workflow, run, step and digest.")] = False,
    digest: Annotated[
        str, typer.Option("--definition-digest", metavar="SHA256", help="Of the workflow's definition; with --proven.")
    ] = "",
    address: Annotated[str, typer.Option(metavar="IP", help="Where the call comes from.")] = "",
    attempt: Annotated[int, typer.Option(min=1, max=MOST_ATTEMPTS, help="How often the step was opened.")] = 1,
    at: Annotated[str, typer.Option(help="2026-12-01T23:00Z.  (default: now)")] = "",
    denial: Annotated[str, typer.Option(metavar="REF", help="The reference id that a refused agent was told.")] = "",
    database: Annotated[
        Path | None,
        typer.Option(
            "--database", "--journal", metavar="FILE", help="With --denial: the broker's database, or a journal export."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Say which rule decides and what would change it. Exit 1: denied.

    Either AGENT SCOPE --map FILE, or --denial REF --database FILE (with --map FILE: asked again of that map).
    """
    if denial:
        if database is None or agent:
            fail(os.EX_USAGE, "--denial REF needs --database PATH, and no AGENT")
        _explain_denial(denial, database, map_file, as_json=as_json)
    if not (agent and scope and map_file):
        fail(os.EX_USAGE, "give AGENT SCOPE --map FILE, or --denial REF --database PATH")
    claims: dict[str, str | None] = {"workflow": workflow, "run": run, "step": step}
    _check_words(agent, scope, claims)
    _check_circumstances(proven=proven, digest=digest, address=address)
    scope_map = load_map(map_file)
    request = request_for(
        scope_map,
        agent=agent,
        scope=scope,
        now=_instant(at),
        claims=claims,
        proven=proven,
        definition_digest=digest,
        address=address,
        attempt=attempt,
    )
    _explain(scope_map, request, as_json=as_json)


def _check_words(agent: str, scope: str, claims: Mapping[str, str | None]) -> None:
    """What no broker would be asked has no answer either."""
    try:
        parse_spiffe_id(agent)
    except SpiffeIdError as error:
        fail(os.EX_USAGE, f"AGENT {show(agent)}: {error}")
    for name, word in {"SCOPE": scope, **claims}.items():
        if word and NAME.fullmatch(word) is None:
            fail(os.EX_USAGE, f"{name} {show(word)} must match {NAME.pattern}")


def _check_circumstances(*, proven: bool, digest: str, address: str) -> None:
    if digest:
        if not proven:
            fail(os.EX_USAGE, "--definition-digest is what a launcher says: give --proven, too")
        try:
            check_digest(digest)
        except ValueError as error:
            fail(os.EX_USAGE, f"--definition-digest {show(digest)}: {error}")
    if address and read_address(address) is None:
        fail(os.EX_USAGE, f"--address {show(address)} is no IP address")


def _explain(scope_map: ScopeMap, request: AccessRequest, *, as_json: bool) -> Never:
    found = tell(scope_map, request)
    if as_json:
        print_json(found.to_json())
    else:
        styles = {"ALLOWED": "bold green", "DENIED": "bold red"}
        say((styles.get((line.split() or [""])[0], ""), line) for line in found.lines())
    raise typer.Exit(os.EX_OK if isinstance(found.decision, Allowed) else FOUND)


def _explain_denial(reference: str, journal: Path, map_file: Path | None, *, as_json: bool) -> Never:
    found = find_denial(journal, reference)
    scope_map = load_map(map_file) if map_file else None
    told = story(found.record, found.more, scope_map, SystemClock().now())
    if as_json:
        print_json(told.to_json())
    else:
        say(told.lines())
        if map_file is None:
            say([("", "with --map FILE: the nearest grants, and whether today's map would still refuse it")])
    raise typer.Exit(FOUND)


def _instant(text: str) -> datetime:
    if not text:
        return SystemClock().now()
    try:
        return parse_instant(text)
    except ValueError as error:
        fail(os.EX_USAGE, f"--at: {error}")
