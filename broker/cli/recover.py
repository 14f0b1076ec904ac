"""`stepcred-broker recover`: after the database was restored or lost."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Never

import typer

from broker import log, process
from broker.cli.options import FOUND, ConfigFile, VaultTokenFile, fail, operator_token
from broker.config import Config, load
from broker.leases.recovery import NotAllowed, Report, Request
from broker.policy.durations import parse_instant
from broker.providers.base import ProviderError, Stray


def recover(
    config: ConfigFile,
    *,
    since: Annotated[
        str,
        typer.Option(metavar="TIME", help="2026-12-01T23:00Z: no later than the backup that was restored was made."),
    ] = "",
    vault_token_file: VaultTokenFile = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Look again when nothing that was on its way can land any more.")
    ] = True,
    unfreeze: Annotated[
        bool,
        typer.Option(
            "--unfreeze", help="With --since: mint again if everything is proven. Alone: mint again, you have decided."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Find what is alive and unknown to a restored database, kill it, and begin a new chain. The daemon must be stopped.

    Leaves the broker frozen: it revokes and answers, and mints nothing until --unfreeze.
    Exit code 1 when something could not be proven, 69 when a provider could not be asked or the anchor not be written:
    run it again. 77 when the operator's token is missing or may not do it; nothing was changed then.
    """
    process.harden()  # before the operator's token is read
    log.configure("info", "console")
    settings = load(config, os.environ)
    if not since and unfreeze:
        _unfreeze(settings, as_json=as_json)
    request = Request(
        since=_instant(since),
        operator=operator_token(vault_token_file),
        mint_timeout=settings.timings.mint_timeout.total_seconds(),
        wait=wait,
        unfreeze=unfreeze,
        tell=_nothing if as_json else _told,
    )
    report, anchored = _run(settings, request)
    _tell(report, as_json=as_json)
    if problems := [*report.unanswered, *anchored]:
        problems.append("the broker goes on refusing to serve: mend that, and run recover again")
        for problem in problems:
            typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(os.EX_UNAVAILABLE)
    raise typer.Exit(FOUND if report.unproven else os.EX_OK)


def _run(settings: Config, request: Request) -> tuple[Report, list[str]]:
    """The report, and what kept the anchor from being written."""
    from broker.wiring import offline

    try:
        return asyncio.run(offline.recover(settings, request))
    except NotAllowed as error:
        hint = "nothing was changed; docs/recovery.md has the policy of an operator's token"
        fail(os.EX_NOPERM, *error.problems, hint)
    except ProviderError as error:
        fail(os.EX_UNAVAILABLE, f"{error}; nothing was changed")


def _unfreeze(settings: Config, *, as_json: bool) -> Never:
    from broker.wiring import offline

    changed = asyncio.run(offline.unfreeze(settings))
    if as_json:
        typer.echo(json.dumps({"frozen": False, "changed": changed}))
    else:
        typer.echo("the broker may mint again" if changed else "the broker was not frozen")
    raise typer.Exit(os.EX_OK)


def _told(one: Stray) -> None:
    typer.echo(f"killed    {one.kind} {one.id}  lease {one.lease_id or 'unknown'}  {one.about}")


def _nothing(_: Stray) -> None:
    """In JSON all is told at the end."""


def _tell(report: Report, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
        return
    for text in report.cut_off:
        typer.echo(f"cut off   {text}")
    for text in report.unproven:
        typer.echo(f"UNPROVEN  {text}")
    typer.echo(f"{len(report.killed)} killed, {len(report.cut_off)} cut off, {len(report.unproven)} not proven")
    typer.echo(f"a new chain begins with epoch {report.epoch}; the guard's charges are those of the restored database")
    if report.frozen:
        typer.echo("the broker is frozen: start it, look at what it ends, then stop it and run recover --unfreeze")


def _instant(text: str) -> datetime:
    if not text:
        fail(os.EX_USAGE, "--since TIME is needed: when the restored backup was made, or earlier")
    try:
        return parse_instant(text)
    except ValueError as error:
        fail(os.EX_USAGE, f"--since: {error}")
