"""`stepcred-broker check`: everything that `serve` would stumble over, without serving."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from broker import keyring, log
from broker.cli.options import ConfigFile, count, read_token
from broker.clock import SystemClock
from broker.config import Config, load
from broker.errors import ConfigError, NoIdentity, StoreError


def check(
    config: ConfigFile,
    *,
    live: Annotated[bool, typer.Option("--live", help="Also ask Vault and AWS whether the broker may mint.")] = False,
) -> None:
    """Look for mistakes in config, certificates, keys and scope map; print every one.

    Exit code 78 when something must be changed, 69 when --live finds that a provider is not ready.
    """
    log.configure("error", "console")
    settings = load(config, os.environ)
    looks: dict[str, Callable[[Config], list[str]]] = {
        "certificates": _certificates,
        "mint key": _mint_key,
        "anchor": _anchor,
        "scope map": _scope_map,
    }
    if settings.vault and settings.vault.token_file:
        looks["vault token"] = _vault_token
    typer.echo(f"{'config':<14}ok")
    wrong = sum(_report(name, look(settings)) for name, look in looks.items())
    if wrong:
        raise typer.Exit(os.EX_CONFIG)
    if not live:
        typer.echo(f"{'providers':<14}not asked (--live asks them)")
        return
    from broker.wiring import offline

    found = asyncio.run(offline.check_live(settings))
    wrong = _report("providers", found)
    for remark in found.remarks:
        typer.echo(f"{'':<14}note: {remark}")
    if found.remedy:
        typer.echo(f"this prints what to install, and with --diff how the server differs:\n  {found.remedy}", err=True)
    if wrong:
        raise typer.Exit(os.EX_UNAVAILABLE)


def _report(name: str, problems: list[str]) -> int:
    typer.echo(f"{name:<14}{'ok' if not problems else count(len(problems), 'problem')}")
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    return len(problems)


def _certificates(settings: Config) -> list[str]:
    from broker.wiring.listeners import front_door, spiffe_agent

    agent = None
    try:
        agent = spiffe_agent(settings, SystemClock())
        front_door(settings, SystemClock(), agent)
    except ConfigError as error:
        return error.problems
    except NoIdentity as error:
        return [str(error)]
    finally:
        if agent is not None:
            agent.close()
    return []


def _mint_key(settings: Config) -> list[str]:
    """Key and database belong together; before the first start there may be neither, and both will be made."""
    from broker.store.mint_keys import MAYBE_LOST, lost_database
    from broker.store.sqlite import open_readonly

    path, database = settings.store.mint_key_file, settings.store.path
    if not database.exists() and not path.exists():
        return []
    try:
        ring = keyring.load(path)
        known: Mapping[str, str] = {}
        if database.exists():
            with open_readonly(database) as store:
                known = store.read(lambda tx: tx.control().key_fingerprints)
        if not known and not settings.store.anchor.exists():  # an anchor's own look says it
            if why := lost_database(path):
                return [why]
            typer.echo(f"{'':<14}note: {MAYBE_LOST}")
    except ConfigError as error:
        return error.problems
    except StoreError as error:
        return [str(error)]
    if any(ring.fingerprints.get(kid) != fingerprint for kid, fingerprint in known.items()):
        return [
            f"mint_key_file {path}: not the key of database {database}; restore the file made with it, or see docs/recovery.md"
        ]
    return []


def _vault_token(settings: Config) -> list[str]:
    """With more than a token the server is not asked. An agent may still have to fill an empty file."""
    if settings.vault and (path := settings.vault.token_file) and path.read_bytes().strip():
        try:
            read_token("vault.token_file", path)
        except ConfigError as error:
            return error.problems
    return []


def _anchor(settings: Config) -> list[str]:
    """Does the database still hold what it once had?"""
    from broker.journal import anchor
    from broker.store.anchoring import HELP, misfit
    from broker.store.sqlite import open_readonly

    path, database = settings.store.anchor, settings.store.path
    try:
        held = anchor.read(path)
        if not database.exists():
            return [f"anchor_file {path}: there was a database, and it is gone; {HELP}"] if held else []
        with open_readonly(database) as store:
            problem = store.read(lambda tx: misfit(tx, held))
    except ConfigError as error:
        return error.problems
    except StoreError:
        return []  # the mint key's look has said so
    return [f"anchor_file {path}: {problem}; {HELP}"] if problem else []


def _scope_map(settings: Config) -> list[str]:
    from broker.policy.problems import ScopeMapError
    from broker.wiring import offline

    try:
        scope_map = offline.scope_map(settings)
    except ScopeMapError as error:
        return [str(problem) for problem in error.problems]
    configured = {name for name in ("vault", "aws") if getattr(settings, name) is not None}
    return [
        f"{scope.rule.file}:{scope.rule.line}: scope {scope.name} needs a section [{scope.provider}] in the config"
        for scope in scope_map.scopes.values()
        if scope.provider not in configured
    ]
