"""The `stepcred-broker` command: which subcommands there are, loaded only when asked for.

Loading them all costs a second of imports (measured: boto3, hvac and aiohttp take 1.1 s); `--help` needs none.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import Annotated, NamedTuple

import typer

_COMPLETE_VARIABLE = "_STEPCRED_BROKER_COMPLETE"  # set by the shell while it completes


class Command(NamedTuple):
    """Where a subcommand lives: a function, or a typer app with subcommands of its own."""

    module: str
    name: str
    summary: str


COMMANDS = {
    "serve": Command("broker.cli.serve", "serve", "Run the daemon."),
    "check": Command("broker.cli.check", "check", "Look for mistakes in config, keys, certificates and scope map."),
    "scopes": Command(
        "broker.cli.scopes", "app", "Scope maps, offline: lint, test, explain, who-can, plan, sign and more."
    ),
    "deny": Command("broker.cli.deny", "app", "Who is not let in: add, remove, list."),
    "operators": Command("broker.cli.operators", "app", "The operators file and its second factors: check, key, seal."),
    "keys": Command("broker.cli.keys", "app", "The mint keys: list, rotate, prune, new."),
    "webhook-key": Command(
        "broker.cli.webhook_key", "webhook_key", "The key that webhooks are signed with: make it, print its public key."
    ),
    "recover": Command("broker.cli.recover", "recover", "After a restore: kill what is alive and forgotten."),
    "recheck": Command("broker.cli.recheck", "recheck", "Look again at credentials that were reported dead."),
    "audit": Command("broker.cli.audit", "app", "Read the journal offline: verify, export."),
    "dev": Command("broker.cli.dev", "dev", "Run a whole broker with stand-ins, for writing a workflow."),
    "dev-ca": Command("broker.cli.dev_ca", "app", "Make throw-away certificates for development."),
}


def build(arguments: Sequence[str]) -> typer.Typer:
    """The command tree, with the one subcommand loaded that `arguments` name."""
    root = typer.Typer(
        name="stepcred-broker", no_args_is_help=True, help="Short-lived credentials for workflow steps: the daemon."
    )
    root.callback()(_options)
    wanted = next((argument for argument in arguments if not argument.startswith("-")), "")
    for name, command in COMMANDS.items():
        if name == wanted or _COMPLETE_VARIABLE in os.environ:
            _add(root, name, command)
        else:
            root.command(name, help=command.summary)(_not_loaded)
    return root


def _add(root: typer.Typer, name: str, command: Command) -> None:
    target = getattr(import_module(command.module), command.name)
    if isinstance(target, typer.Typer):
        root.add_typer(target, name=name)
    else:
        root.command(name)(target)


def _not_loaded() -> None:
    """Stands in the list of `--help`."""


def _show_version(asked: bool) -> None:  # noqa: FBT001 - typer's callback takes it so
    if asked:
        typer.echo(f"stepcred-broker {metadata.version('stepcred')}")
        raise typer.Exit


def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
