"""Options that several commands share."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Never

import typer

from broker.errors import ConfigError, unreadable
from broker.secret import Secret

FOUND = 1  # exit code: looked, and found something

ConfigFile = Annotated[
    Path,
    typer.Option("--config", envvar="STEPCRED_BROKER_CONFIG", metavar="FILE", help="The daemon's settings, TOML."),
]

VaultTokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="An operator's one-time Vault token that may list and revoke accessors; chmod 600, deleted by you.",
    ),
]

LookupTokenFile = Annotated[
    Path | None,
    typer.Option(
        "--vault-token-file",
        metavar="FILE",
        help="An operator's Vault token that may look up accessors and leases, and nothing else; chmod 600.",
    ),
]


def operator_token(path: Path | None, option: str = "--vault-token-file") -> Secret | None:
    """Read it; it can do more than the broker's own. Raises ConfigError when it is unreadable, no token or readable by others."""
    if path is None:
        return None
    token = read_token(option, path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError([f"{option} {path}: readable by others; run chmod 600 {path}"])
    return token


def read_token(option: str, path: Path) -> Secret:
    """One line of printable ASCII: anything else cannot be sent, or is another file. Raises ConfigError."""
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{option} {path}: {unreadable(error)}"]) from None
    if not text:
        raise ConfigError([f"{option} {path}: is empty"])
    if not all("!" <= letter <= "~" for letter in text):
        raise ConfigError([f"{option} {path}: holds more than a token, or none: one line without blanks is expected"])
    return Secret(text)


def count(number: int, thing: str) -> str:
    """1 error, 2 errors."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


_asked_for_json: ContextVar[bool] = ContextVar("asked_for_json", default=False)


def note_arguments(given: Sequence[str]) -> None:
    """Before a command runs: how its errors are to be told."""
    _asked_for_json.set("--json" in given)


def tell(code: int, *problems: str) -> None:
    """Text on standard error; with --json also one object on standard output, where a program looks for an answer."""
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    if _asked_for_json.get():
        typer.echo(json.dumps({"error": "; ".join(problems), "exit_code": code}))


def tell_wrong_arguments() -> None:
    """The text is typer's own, and is said already."""
    if _asked_for_json.get():
        typer.echo(json.dumps({"error": "wrong arguments", "exit_code": os.EX_USAGE}))


def fail(code: int, *problems: str) -> Never:
    """Tell, and end with this exit code."""
    tell(code, *problems)
    raise typer.Exit(code)
