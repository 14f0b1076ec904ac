"""`stepcred-broker keys`: the mint keys, which name every credential and step handle."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from broker import keyring
from broker.cli.options import ConfigFile, count
from broker.clock import SystemClock
from broker.config import Config, load
from broker.errors import ConfigError
from broker.keyring import Keyring
from broker.store.anchoring import Anchoring
from broker.store.base import Store, Tx
from broker.store.mint_keys import Use, fitting_keyring, forget, uses
from broker.store.sqlite import open_readonly, open_store

app = typer.Typer(no_args_is_help=True, help="The mint keys, which name every credential. Prints ids, never a key.")

NOTHING = Use()


@app.command("list")
def list_keys(config: ConfigFile) -> None:
    """Say which keys there are, oldest first, and what each still names."""
    settings = load(config, os.environ).store
    ring = keyring.load(settings.mint_key_file)
    known, in_use = _database(settings.path)
    there = settings.path.exists()
    for kid, fingerprint in ring.fingerprints.items():
        use = in_use.get(kid, NOTHING)
        marks = ["current"] * (kid == ring.current) + ["not in use yet"] * (there and kid not in known)
        named = f"{count(use.leases, 'lease')}, {count(use.steps, 'step')}" if there else "unknown"
        typer.echo(f"{kid}  {fingerprint}  {named}{'  ' if marks else ''}{', '.join(marks)}")
    if not there:  # no zero: what they name may be alive
        typer.echo(
            f"error: database {settings.path}: does not exist, and nothing else knows what the keys name", err=True
        )
        raise typer.Exit(os.EX_UNAVAILABLE)


@app.command("rotate")
def rotate(config: ConfigFile) -> None:
    """Add a key and make it the current one. The daemon takes it at its next start, or at SIGHUP."""
    settings = load(config, os.environ).store
    ring = keyring.rotate(settings.mint_key_file)
    typer.echo(f"{ring.current} is the current key of {settings.mint_key_file}; back the file up")
    typer.echo("older keys still find what they named; send the daemon SIGHUP, and prune when they name nothing")


@app.command("prune")
def prune(config: ConfigFile) -> None:
    """Drop older keys that name no live lease and no open step. The daemon must be stopped."""
    dropped = asyncio.run(_prune(load(config, os.environ)))
    typer.echo(f"dropped {', '.join(dropped)}" if dropped else "nothing to drop: every older key is in use")


@app.command("new")
def new(file: Annotated[Path, typer.Argument(metavar="FILE", help="Must not exist.")]) -> None:
    """Write a first key to FILE: for a systemd credential, or for a first start."""
    try:
        ring = keyring.generate(file)
    except OSError as error:
        typer.echo(f"error: {file}: {error.strerror}", err=True)
        raise typer.Exit(os.EX_CANTCREAT) from None
    typer.echo(f"{ring.current} is the key of {file}; back the file up apart from the database")
    typer.echo('it is for mint_key_file = "credential:NAME", or for mint_key_file = FILE before the first start')


def _database(path: Path) -> tuple[set[str], dict[str, Use]]:
    """The keys that the database knows, and what they name; nothing before the first start."""
    if not path.exists():
        return set(), {}
    with open_readonly(path) as store:
        return store.read(lambda tx: (set(tx.control().key_fingerprints), uses(tx)))


async def _prune(config: Config) -> list[str]:
    """The database's lock keeps a daemon from naming anything by a key that is about to go.

    Only the database that the keys were used with knows what they still name: not a new one, nor a restored one.
    """
    path = config.store.path
    if not path.exists():
        raise ConfigError([f"database {path}: does not exist, and nothing else knows what the keys still name"])
    store = open_store(path)
    try:
        await Anchoring(store, config.store.anchor, SystemClock()).must_fit()
        if not await store.read(lambda tx: tx.control().key_fingerprints):
            raise ConfigError([f"database {path}: was never used with these keys; is it the right one?"])
        ring, _ = await fitting_keyring(store, config.store.mint_key_file)
        return await _drop_unused(store, ring, config.store.mint_key_file)
    finally:
        await store.close()


async def _drop_unused(store: Store, ring: Keyring, path: Path) -> list[str]:
    def operation(tx: Tx) -> list[str]:
        in_use = uses(tx)
        unused = [kid for kid in ring.fingerprints if kid != ring.current and kid not in in_use]
        forget(tx, unused)
        return unused

    keyring.must_be_writable(path)
    unused = await store.write(operation)
    if unused:
        keyring.drop(path, unused)
    return unused
