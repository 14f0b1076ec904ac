"""`stepcred admin`: for operators, with a certificate and an address of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stepcred.cli import _exits
from stepcred.cli._top.command import top

app = typer.Typer(
    name="admin",
    no_args_is_help=True,
    help="For operators: on their own listener, as STEPCRED_ADMIN_ADDR, _CERT, _KEY and _CA say.",
)

app.command("top")(top)

Json = Annotated[bool, typer.Option("--json", help="For programs.")]
_MINUTES = "%Y-%m-%d %H:%M UTC"


@app.command("whoami")
def whoami(*, as_json: Json = False) -> int:
    """Show what the broker makes of this operator's certificate."""
    from stepcred._admin import ask
    from stepcred.v1 import operator_pb2

    told = ask("GetOperator", operator_pb2.GetOperatorRequest())
    rows = {
        "identity": told.spiffe_id,
        "environment": told.environment,
        "certificate_not_after": _time(told.certificate_not_after),
        "certificate_sha256": told.certificate_sha256,
        "server_time": _time(told.server_time),
    }
    if as_json:
        print(json.dumps({name: _plain(value) for name, value in rows.items()}, indent=2))  # noqa: T201
        return 0
    _print(_grid((name.replace("_", " "), _shown(value)) for name, value in rows.items()))
    return 0


@app.command("front-door")
def front_door(*, as_json: Json = False) -> int:
    """Show what decides who comes in: bundles, revocation lists, certificates. Exit code 1: something needs a look."""
    from stepcred._admin import ask
    from stepcred.v1 import operator_pb2

    told = ask("GetFrontDoor", operator_pb2.GetFrontDoorRequest())
    code = _exits.FOUND_SOMETHING if told.remarks else 0
    if as_json:
        print(json.dumps(_front_door(told), indent=2))  # noqa: T201
        return code
    table = Table(box=None, pad_edge=False)
    for title in ("WHOSE", "TRUST DOMAIN", "WHAT", "NAME", "UNTIL"):
        table.add_column(title)
    for whose, domains in (("agents", told.agents), ("operators", told.operators)):
        for domain in domains:
            for root in domain.roots:
                table.add_row(whose, domain.name, "root", root.subject, _shown(_time(root.not_after)))
            for one in domain.revocation_lists:
                what = f"list {one.number}, {one.entries} revoked"
                table.add_row(whose, domain.name, what, one.issuer, _shown(_time(one.next_update)))
    table.add_row("broker", "", "certificate", "", _shown(_time(told.server_certificate_not_after)))
    _print(table)
    print(f"\n{told.denied} on the deny list, generation {told.generation}")  # noqa: T201
    for remark in told.remarks:
        print(f"! {remark}")  # noqa: T201
    return code


def _front_door(told: Any) -> dict[str, Any]:
    return {
        "generation": told.generation,
        "agents": [_domain(domain) for domain in told.agents],
        "operators": [_domain(domain) for domain in told.operators],
        "denied": told.denied,
        "server_certificate_not_after": _plain(_time(told.server_certificate_not_after)),
        "remarks": list(told.remarks),
    }


def _domain(domain: Any) -> dict[str, Any]:
    return {
        "name": domain.name,
        "roots": [
            {"subject": root.subject, "sha256": root.sha256, "not_after": _plain(_time(root.not_after))}
            for root in domain.roots
        ],
        "revocation_lists": [
            {
                "issuer": one.issuer,
                "number": one.number,
                "entries": one.entries,
                "next_update": _plain(_time(one.next_update)),
            }
            for one in domain.revocation_lists
        ],
    }


def _time(stamp: Any) -> datetime:
    found: datetime = stamp.ToDatetime(UTC)
    return found


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _shown(value: Any) -> str:
    return value.strftime(_MINUTES) if isinstance(value, datetime) else str(value)


def _grid(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def _print(table: Table) -> None:
    Console(soft_wrap=not (sys.stdout and sys.stdout.isatty()), markup=False, highlight=False).print(table)
