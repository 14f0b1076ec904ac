"""`stepcred-broker scopes provision`: what a scope map needs at Vault, and how a live server differs from it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, Never

import typer

from broker.cli.options import FOUND, operator_token
from broker.policy.language.load import load
from broker.policy.problems import ScopeMapError
from broker.providers.base import ProviderError
from broker.providers.vault.provision import Format, show


def provision(
    file: Annotated[Path, typer.Argument(metavar="MAP", help="The scope map.")],
    *,
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.SH,
    diff: Annotated[
        bool, typer.Option("--diff", help="Compare with a live server instead. Exit 1: it differs.")
    ] = False,
    address: Annotated[
        str, typer.Option(envvar=["BAO_ADDR", "VAULT_ADDR"], help="With --diff: https://host:port.")
    ] = "",
    token_file: Annotated[
        Path | None, typer.Option(help="With --diff: a token that may read policies and token roles; chmod 600.")
    ] = None,
    ca_file: Annotated[Path | None, typer.Option(help="With --diff: roots of the server's certificate.")] = None,
    namespace: Annotated[str, typer.Option(help="As vault.namespace of the config.")] = "",
    tomb_role: Annotated[str, typer.Option(help="As vault.tomb_role of the config.")] = "stepcred-tomb",
    broker_policy: Annotated[str, typer.Option(help="Name of the broker's own policy.")] = "stepcred-broker",
) -> None:
    """Print the policies and token roles that MAP's vault scopes need, and the broker's own policy.

    Nothing is changed anywhere: the output is for a review, and then for an administrator.
    """
    from broker.wiring import adapters, offline
    from broker.wiring.surveying import declared

    try:
        scopes = [
            declared(scope) for scope in load(file, adapters.scope_kinds()).scopes.values() if scope.provider == "vault"
        ]
    except OSError as error:
        _fail(os.EX_CONFIG, f"{file}: {error.strerror}")
    except ScopeMapError as error:
        _fail(os.EX_CONFIG, *(str(problem) for problem in error.problems))
    try:
        plan = offline.vault_plan(scopes, namespace=namespace, tomb_role=tomb_role, broker_policy=broker_policy)
    except ValueError as error:
        _fail(os.EX_USAGE, str(error))
    if not diff:
        typer.echo(show(plan, form), nl=False)
        return
    token = operator_token(token_file, "--token-file")
    if not address or token is None:
        _fail(os.EX_USAGE, "--diff needs --address and --token-file")
    try:
        found = asyncio.run(offline.vault_drift(plan, address=address, token=token, ca_file=ca_file))
    except ProviderError as error:
        _fail(os.EX_UNAVAILABLE, str(error))
    for line in found:
        typer.echo(line)
    if found:
        raise typer.Exit(FOUND)
    typer.echo("the server has what the map needs, and no more")


def _fail(code: int, *problems: str) -> Never:
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    raise typer.Exit(code)
