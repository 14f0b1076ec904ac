"""What is running: options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Workflow = Annotated[str | None, typer.Option(help="Default: STEPCRED_WORKFLOW.", metavar="NAME")]
Run = Annotated[str | None, typer.Option(help="Default: STEPCRED_RUN.", metavar="NAME")]
StepOption = Annotated[str | None, typer.Option("--step", help="Default: STEPCRED_STEP.", metavar="NAME")]
