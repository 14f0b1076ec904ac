"""The daemon's settings: a `Config`, or every mistake. The first line may be `#env NAME=VALUE`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.config import Config, load
from broker.config.sources import leaves, variable
from broker.errors import ConfigError
from tests.fuzz import mutate
from tests.fuzz.seeds import fenced
from tests.fuzz.target import Check, Target
from tests.unit.test_config import GOOD

_ENV = b"#env "


@contextmanager
def ready(folder: Path) -> Iterator[Check]:
    for name in ("server.pem", "ca.pem", "scopes.yaml"):
        (folder / name).touch(mode=0o644)
    for name in ("server-key.pem", "vault-token"):
        (folder / name).touch(mode=0o600)
    path = folder / "broker.toml"

    def check(data: bytes) -> None:
        env = {}
        if data.startswith(_ENV):
            line, _, data = data.partition(b"\n")
            name, _, value = line.removeprefix(_ENV).decode("utf-8", "surrogateescape").partition("=")
            env[name] = value
        path.write_bytes(data)
        try:
            assert isinstance(load(path, env), Config)
        except ConfigError as error:
            assert error.problems

    yield check


def seeds() -> Iterator[bytes]:
    yield GOOD.encode()
    yield from fenced("toml")
    for keys in leaves(Config):
        yield f"#env {variable(keys)}=1\n".encode() + GOOD.encode()
        *above, key = keys
        yield GOOD.encode() + f"\n[{'.'.join(above) or 'x'}]\n{key} = '1h'\n".encode()


TARGET = Target(
    ready=ready,
    seeds=seeds,
    words=[
        b"#env STEPCRED_BROKER_",
        b"[[",
        b"]]",
        b'"""',
        b"'''",
        b"= ",
        b"1979-05-27T07:32:00Z",
        b"0x",
        b"inf",
        b"nan",
    ]
    + [".".join(keys).encode() for keys in leaves(Config)],
    mutate=mutate.lines,
    max_bytes=4096,
)
