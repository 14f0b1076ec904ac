"""`stepcred-broker scopes provision`: what a scope map needs at Vault and AWS, and how a live Vault differs from it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Never

import typer

from broker.cli.options import FOUND, operator_token
from broker.policy.language.load import load
from broker.policy.problems import ScopeMapError
from broker.providers.aws import provision_text
from broker.providers.base import DeclaredScope, ProviderError
from broker.providers.vault import provision as vault
from broker.providers.vault.provision import Plan
from broker.secret import Secret


class Form(Enum):
    """How it is printed."""

    SH = "sh"
    HCL = "hcl"  # Vault's
    JSON = "json"  # AWS's
    TERRAFORM = "terraform"


class Whose(Enum):
    """Of which provider."""

    VAULT = "vault"
    AWS = "aws"


def provision(
    file: Annotated[Path, typer.Argument(metavar="MAP", help="The scope map.")],
    *,
    whose: Annotated[
        Whose | None, typer.Option("--provider", help="Of this provider's scopes; all that the map has, unless said.")
    ] = None,
    form: Annotated[
        Form, typer.Option("--format", help="How to print it: hcl for Vault alone, json for AWS alone.")
    ] = Form.SH,
    diff: Annotated[
        bool, typer.Option("--diff", help="Compare with a live Vault instead. Exit 1: it differs. Not for AWS.")
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
    broker_arn: Annotated[
        str, typer.Option(help="For AWS: the user or role that the broker is, arn:aws:iam::…; check --live says it.")
    ] = "",
) -> None:
    """Print what MAP's scopes need at their providers, and the broker's own policy there.

    Vault: policies and token roles. AWS: roles, trust policies, permissions boundaries. Nothing is changed anywhere: the
    output is for a review, and then for an administrator.
    """
    from broker.wiring import offline

    scopes = _scopes(file)
    asked = _asked(whose, scopes, diff=diff)
    texts = []
    try:
        if Whose.VAULT in asked:
            plan = offline.vault_plan(
                scopes.get("vault", []), namespace=namespace, tomb_role=tomb_role, broker_policy=broker_policy
            )
            if diff:
                _diff(plan, address, operator_token(token_file, "--token-file"), ca_file)
                return
            texts.append(_vault_text(plan, form))
        if Whose.AWS in asked:
            texts.append(_aws_text(scopes.get("aws", []), form, broker_arn, broker_policy))
    except ValueError as error:
        _fail(os.EX_USAGE, str(error))
    typer.echo("\n".join(texts), nl=False)


def _scopes(file: Path) -> dict[str, list[DeclaredScope]]:
    """Provider → its scopes."""
    from broker.wiring import adapters
    from broker.wiring.surveying import declared

    found: dict[str, list[DeclaredScope]] = {}
    try:
        for scope in load(file, adapters.scope_kinds()).scopes.values():
            found.setdefault(scope.provider, []).append(declared(scope))
    except OSError as error:
        _fail(os.EX_CONFIG, f"{file}: {error.strerror}")
    except ScopeMapError as error:
        _fail(os.EX_CONFIG, *(str(problem) for problem in error.problems))
    return found


def _asked(whose: Whose | None, scopes: dict[str, list[DeclaredScope]], *, diff: bool) -> Sequence[Whose]:
    """Vault also for a map without scopes: the broker's own policy is needed in any case."""
    if diff:
        if whose is Whose.AWS or (whose is None and "aws" in scopes and "vault" not in scopes):
            _fail(os.EX_USAGE, "--diff compares with a live Vault; for AWS, stepcred-broker check --live looks")
        return [Whose.VAULT]
    if whose is not None:
        return [whose]
    return [one for one in Whose if one.value in scopes] or [Whose.VAULT]


def _vault_text(plan: Plan, form: Form) -> str:
    try:
        return vault.show(plan, vault.Format(form.value))
    except ValueError:
        known = ", ".join(one.value for one in vault.Format)
        raise ValueError(f"--format {form.value} is not for Vault: {known}; or say --provider aws") from None


def _aws_text(scopes: Sequence[DeclaredScope], form: Form, broker_arn: str, broker_policy: str) -> str:
    from broker.wiring import offline

    if not broker_arn:
        raise ValueError(
            "for the map's aws scopes say --broker-arn (check --live tells it); for Vault's alone, --provider vault"
        )
    if form.value not in provision_text.SHOWN_AS:
        raise ValueError(f"--format {form.value} is not for AWS: {', '.join(provision_text.SHOWN_AS)}")
    return provision_text.show(offline.aws_plan(scopes, broker_arn=broker_arn, broker_policy=broker_policy), form.value)


def _diff(plan: Plan, address: str, token: Secret | None, ca_file: Path | None) -> None:
    from broker.wiring import offline

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
