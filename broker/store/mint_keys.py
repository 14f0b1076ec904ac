"""The mint keys and the database belong together."""

from __future__ import annotations

from pathlib import Path

from broker import keyring
from broker.errors import ConfigError
from broker.keyring import Keyring
from broker.store.base import Control, Store, Tx


async def fitting_keyring(store: Store, path: Path) -> tuple[Keyring, Control]:
    """The mint keys, if they are those that this database was used with.

    A key is generated only together with a new database: a lost key must not be replaced silently, since the
    credentials that it named could not be found again. Raises ConfigError.
    """
    control = await store.read(lambda tx: tx.control())
    ring = _load(path, new_database=not control.key_fingerprints)
    known = ring.fingerprints
    for kid, fingerprint in control.key_fingerprints.items():
        if known.get(kid) != fingerprint:
            raise ConfigError(
                [f"mint_key_file {path}: does not fit the database: key {kid} is missing or differs; restore the file"]
            )

    def remember(tx: Tx) -> None:
        for kid in known.keys() - control.key_fingerprints.keys():
            tx.add_key_fingerprint(kid, known[kid])

    await store.write(remember)
    return ring, control


def _load(path: Path, *, new_database: bool) -> Keyring:
    return keyring.generate(path) if new_database and not path.exists() else keyring.load(path)
