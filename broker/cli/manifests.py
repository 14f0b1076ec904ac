"""What the commands for signed maps share: their options, the files that they read, and how a manifest is shown."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.options import fail
from broker.config.settings import MANIFEST_SUFFIX
from broker.errors import unreadable
from broker.model import JsonValue
from broker.policy.signing import Manifest
from broker.policy.signing.envelope import MAX_BYTES

_KEY = re.compile(r"([a-z0-9][a-z0-9._-]{0,254})=(.+)", re.ASCII | re.DOTALL)

Keys = Annotated[
    list[str] | None,
    typer.Option("--keys", metavar="NAME=FILE", help="The public key of one who may sign, PEM; repeat it."),
]


def named_keys(keys: Iterable[str] | None) -> dict[str, Path]:
    """What --keys says; each name once."""
    found: dict[str, Path] = {}
    for text in keys or ():
        match = _KEY.fullmatch(text)
        if match is None:
            fail(os.EX_USAGE, "--keys: expected NAME=FILE, such as alice=alice.pem, with a name in lower case")
        if match[1] in found:
            fail(os.EX_USAGE, f"--keys: {match[1]} is given twice")
        found[match[1]] = Path(match[2])
    return found


def beside(file: Path) -> Path:
    """Where a map's manifest is looked for."""
    return file.with_name(file.name + MANIFEST_SUFFIX)


def read_envelope(path: Path) -> bytes | None:
    """None when it is not there."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        fail(os.EX_CONFIG, f"{path}: {unreadable(error)}")


def signed_by(names: Iterable[str], known: Iterable[str]) -> str:
    """Who did, of whom."""
    return f"{', '.join(sorted(names)) or 'nobody'} (of {', '.join(sorted(known))})"


def as_values(manifest: Manifest) -> JsonValue:
    """As it is signed."""
    return json.loads(manifest.payload())


def print_table(manifest: Manifest) -> None:
    """What a signer agrees to."""
    rows = [
        ("environment", manifest.environment),
        ("trust domain", manifest.trust_domain),
        ("serial", str(manifest.serial)),
        ("expires", manifest.expires.isoformat()),
    ]
    rows += [
        ("root" if name == manifest.root else "file", f"sha256:{digest}  {name}")
        for name, digest in sorted(manifest.files.items())
    ]
    print_rows(rows)


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Name and value, aligned. A manifest's words are printable: it is refused otherwise."""
    for name, value in rows:
        typer.echo(f"{name:<14}{value}")
