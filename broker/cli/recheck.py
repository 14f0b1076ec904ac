"""`stepcred-broker recheck`: is what was reported dead still dead?"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from datetime import datetime
from typing import Annotated

import typer

from broker import log, process
from broker.cli.options import FOUND, ConfigFile, LookupTokenFile, count, fail, operator_token
from broker.config import load
from broker.leases.recovery import Rechecked
from broker.model import Lease, LeaseState
from broker.policy.durations import parse_instant
from broker.store.base import Tx


def recheck(
    config: ConfigFile,
    *,
    since: Annotated[str, typer.Option(metavar="TIME", help="Only leases that ended after it.  (default: all)")] = "",
    vault_token_file: LookupTokenFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Ask the providers again about leases that have ended, beside a running daemon or not.

    Exit code 1 when something that was reported dead is alive; 69 when some could not be asked, each reason counted:
    0 says that every one was seen dead again.
    """
    process.harden()  # before the operator's token is read
    log.configure("error", "console")
    settings = load(config, os.environ)
    after = _instant(since) if since else None
    from broker.store.sqlite import open_readonly
    from broker.wiring import offline

    with open_readonly(settings.store.path) as store:
        leases = store.read(lambda tx: _ended(tx, after))
    found = asyncio.run(offline.recheck(settings, leases, operator_token(vault_token_file)))
    _tell(found, as_json=as_json)
    if found.alive:
        raise typer.Exit(FOUND)
    raise typer.Exit(os.EX_UNAVAILABLE if found.unknown else os.EX_OK)


def _ended(tx: Tx, after: datetime | None) -> list[Lease]:
    """Whatever was once made. Of most VOID leases nothing was; what was made and given to nobody has an accessor."""
    ended = tx.leases_in(LeaseState.REVOKED, LeaseState.EXPIRED, LeaseState.VOID)
    ended = [lease for lease in ended if lease.state is not LeaseState.VOID or lease.refs.get("accessor")]
    return [lease for lease in ended if after is None or (lease.ended_at is not None and lease.ended_at >= after)]


def _tell(found: Rechecked, *, as_json: bool) -> None:
    reasons = Counter(why for _, why in found.unknown)
    if as_json:
        alive = [{"lease_id": lease.id, "scope": lease.scope, "why": why} for lease, why in found.alive]
        typer.echo(json.dumps({"dead": found.dead, "alive": alive, "unknown": dict(reasons)}, indent=2))
        return
    for lease, why in found.alive:
        typer.echo(f"ALIVE    lease {lease.id}  {lease.scope}  {why}; it was reported {lease.state.value}")
    for why, number in reasons.most_common():
        typer.echo(f"unknown  {count(number, 'lease')}: {why}")
    typer.echo(f"{found.dead} seen dead again, {len(found.alive)} alive, {len(found.unknown)} cannot be asked")


def _instant(text: str) -> datetime:
    try:
        return parse_instant(text)
    except ValueError as error:
        fail(os.EX_USAGE, f"--since: {error}")
