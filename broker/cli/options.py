"""Options that several commands share."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Annotated

import typer

from broker.errors import ConfigError, unreadable
from broker.secret import Secret

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
