"""The broker's own small files, as a damaged disk or another's hand leaves them: read, or refused with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker import keyring
from broker.errors import ConfigError
from broker.identity.bundle import parse_bundle
from broker.journal import anchor
from broker.journal.anchor import Anchor
from broker.journal.chain import Head
from broker.keyring import Keyring
from tests.fuzz.target import Check, Target
from tests.support.certs import TestCA

KINDS = (b"A", b"K", b"T")  # anchor, mint keys, trust bundle


@contextmanager
def ready(folder: Path) -> Iterator[Check]:
    path = folder / "state"
    path.touch(mode=0o600)

    def check(data: bytes) -> None:
        path.write_bytes(data[1:])
        try:
            match data[:1]:
                case b"A":
                    found = anchor.read(path)
                    assert isinstance(found, Anchor)
                    anchor.write(path, found)
                    assert anchor.read(path) == found
                case b"K":
                    assert isinstance(keyring.load(path), Keyring)
                case b"T":
                    assert parse_bundle(data[1:], "bundle").roots is not None
        except ConfigError as error:
            assert error.problems

    yield check


def seeds() -> Iterator[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        anchor.write(folder / "anchor", Anchor(installation="i", head=Head(chain=1, seq=2, hash=b"h" * 32)))
        keyring.generate(folder / "keys")
        yield b"A" + (folder / "anchor").read_bytes()
        yield b"K" + (folder / "keys").read_bytes()
        ca = TestCA(folder)
        yield b"T" + ca.root_pem
        yield b"T" + ca.root_pem * 2
        yield b"T" + ca.operator_root_path.read_bytes() + ca.root_pem
    yield b'A{"installation": "i", "chain": Infinity, "seq": 1, "hash": ""}'
    yield b"A" + b"[" * 3000


TARGET = Target(
    ready=ready,
    seeds=seeds,
    words=(b'"chain":', b'"seq":', b'"hash":', b"Infinity", b"NaN", b"1e999", b"-----BEGIN CERTIFICATE-----", b"null"),
    max_bytes=8192,
)
