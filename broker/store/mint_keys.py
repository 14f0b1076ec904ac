"""The mint keys and the database belong together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from broker import keyring
from broker.errors import ConfigError
from broker.keyring import Keyring
from broker.model import LeaseState
from broker.store.base import Control, Store, Tx


async def fitting_keyring(store: Store, path: Path) -> tuple[Keyring, Control]:
    """The mint keys, if they are those that this database was used with.

    A key is generated only together with a new database: a lost key must not be replaced silently, since the
    credentials that it named could not be found again. Raises ConfigError.
    """
    control = await store.read(lambda tx: tx.control())
    ring = _load(path, new_database=not control.key_fingerprints)
    _must_fit(ring, control, path)
    await store.write(lambda tx: _remember(tx, ring))
    return ring, control


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
            raise ConfigError(
                [f"mint_key_file {path}: does not fit the database: key {kid} is missing or differs; restore the file"]
            )


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
