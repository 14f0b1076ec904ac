"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path,
    typer.Option("--config", envvar="STEPCRED_BROKER_CONFIG", metavar="FILE", help="The daemon's settings, TOML."),
]
