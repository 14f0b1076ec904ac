"""The mint keys and the database belong together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from broker import keyring, process
from broker.errors import ConfigError
from broker.keyring import Keyring
from broker.log import get_logger
from broker.model import LeaseState
from broker.store.base import Control, Store, Tx

log = get_logger(__name__)

MAYBE_LOST = (
    "a new database is used with a mint key that was there before: right at a first start; "
    "if a database was lost, stop and run stepcred-broker recover --since TIME (docs/recovery.md)"
)


async def fitting_keyring(store: Store, path: Path, *, recovering: bool = False) -> tuple[Keyring, Control]:
    """The mint keys, if they are those that this database was used with.

    A key is generated only together with a new database: a lost key must not be replaced silently, since the
    credentials that it named could not be found again. Nor may a lost database, but by
    `recovering`, which calls `remember` at its end. Raises ConfigError.
    """
    try:
        control = await store.read(lambda tx: tx.control())
        if not (control.key_fingerprints or recovering):
            must_be_first(path)
        ring = _load(path, new_database=not control.key_fingerprints)
        _must_fit(ring, control, path)
    except ConfigError:
        store.forsake()
        raise
    if not recovering:  # one that ends early must not leave a database that looks as if it knew everything
        await remember(store, ring, path)
    return ring, control


async def remember(store: Store, ring: Keyring, path: Path) -> None:
    """From now on they belong together. Raises ConfigError, StoreError."""
    await store.write(lambda tx: _remember(tx, ring))
    keyring.note_used(path)  # only now: the other way round, a crash between would refuse a first start


def must_be_first(path: Path) -> None:
    """Beside a database that was never used with a key. Raises ConfigError when this one was used: with one that is lost."""
    if not path.exists():
        return
    if why := lost_database(path):
        raise ConfigError([why])
    log.warning(MAYBE_LOST, mint_key_file=str(path))


def lost_database(path: Path) -> str:
    """What shows that this key has named something, and "" when nothing does. Raises ConfigError.

    A systemd credential is read-only, so a first start leaves no trace in it: it shows nothing, ever.
    """
    if path.parent == process.credentials_directory() or keyring.never_used(path):
        return ""
    return (
        f"mint_key_file {path}: was used with a database that is gone, and what it named may be alive: put the database "
        "back, or run stepcred-broker recover --since TIME (docs/recovery.md); to begin anew when nothing can be alive, "
        "move the key away too"
    )


async def read_again(store: Store, ring: Keyring, path: Path) -> bool:
    """Take a rotated key file into use. True when there was a new key. Raises ConfigError, StoreError."""
    newer = await asyncio.to_thread(keyring.load, path)
    _must_fit(newer, await store.read(lambda tx: tx.control()), path)
    added = newer.fingerprints.keys() - ring.fingerprints.keys()
    await store.write(lambda tx: _remember(tx, newer))  # before anything is named by it
    ring.adopt(newer)
    return bool(added)


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What is still named by a key."""

    leases: int = 0  # without proof of their end
    steps: int = 0  # open

    @property
    def any(self) -> bool:
        """Without this key something could not be found again."""
        return bool(self.leases or self.steps)


def uses(tx: Tx) -> dict[str, Use]:
    """Key id → use, of keys in use."""
    leases = Counter(lease.kid for lease in tx.leases_in(*(state for state in LeaseState if not state.terminal)))
    steps = Counter(step.handle_kid for step in tx.open_steps())
    return {kid: Use(leases=leases[kid], steps=steps[kid]) for kid in leases.keys() | steps.keys()}


def forget(tx: Tx, kids: Collection[str]) -> None:
    """The database no longer asks for these keys.

    Before they leave the file: the other way round, a crash between would keep the daemon from starting.
    """
    for kid in kids:
        tx.forget_key_fingerprint(kid)


def _must_fit(ring: Keyring, control: Control, path: Path) -> None:
    known = ring.fingerprints
    for kid, fingerprint in control.key_fingerprints.items():
        if known.get(kid) != fingerprint:
            why = f"does not fit the database: key {kid} is missing or differs"
            help_ = "restore the file, or see docs/recovery.md for a key that is lost"
            raise ConfigError([f"mint_key_file {path}: {why}; {help_}"])


def _remember(tx: Tx, ring: Keyring) -> None:
    for kid, fingerprint in ring.fingerprints.items():
        tx.add_key_fingerprint(kid, fingerprint)


def _load(path: Path, *, new_database: bool) -> Keyring:
    if not new_database or path.exists():
        return keyring.load(path)
    try:
        return keyring.generate(path)
    except OSError as error:  # a symlink to nowhere "does not exist" either, until it is to be made
        raise ConfigError([f"mint_key_file {path}: cannot be made ({error.strerror})"]) from None
