"""Options that several commands share."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Annotated

import typer

from broker.errors import ConfigError
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


def operator_token(path: Path | None) -> Secret | None:
    """Read it. Raises ConfigError when it is unreadable, empty or readable by others."""
    if path is None:
        return None
    try:
        mode, text = stat.S_IMODE(path.stat().st_mode), path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"--vault-token-file {path}: cannot be read ({type(error).__name__})"]) from None
    if mode & 0o077:
        raise ConfigError([f"--vault-token-file {path}: readable by others; run chmod 600 {path}"])
    if not text:
        raise ConfigError([f"--vault-token-file {path}: is empty"])
    return Secret(text)
