"""`stepcred admin`: for operators, with a certificate and an address of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import typer

from stepcred.cli._admin import _broker, _freezes, _stories
from stepcred.cli._admin._approvals import approvals, reviews
from stepcred.cli._admin._guard import guard
from stepcred.cli._admin._leases import leases, steps
from stepcred.cli._top.command import top

app = typer.Typer(
    name="admin",
    no_args_is_help=True,
    help="For operators: on their own listener, as STEPCRED_ADMIN_ADDR, _CERT, _KEY and _CA say.",
)

_GROUPS: Mapping[str, typer.Typer] = {
    "leases": leases,
    "steps": steps,
    "guard": guard,
    "approvals": approvals,
    "reviews": reviews,
}
_COMMANDS: Mapping[str, Callable[..., int]] = {
    "freeze": _freezes.freeze,
    "unfreeze": _freezes.unfreeze,
    "freezes": _freezes.freezes,
    "alerts": _broker.alerts,
    "health": _broker.health,
    "top": top,
    "scopes": _broker.scopes,
    "explain": _stories.explain,
    "timeline": _stories.timeline,
    "journal": _stories.journal,
    "whoami": _broker.whoami,
    "second-factor": _broker.second_factor,
    "front-door": _broker.front_door,
}
for name, group in _GROUPS.items():
    app.add_typer(group, name=name)
for name, command in _COMMANDS.items():
    app.command(name)(command)
