"""Options that several commands have: what is running, and for whom the answer is."""

from __future__ import annotations

from typing import Annotated

import typer

Workflow = Annotated[str | None, typer.Option(help="Default: STEPCRED_WORKFLOW.", metavar="NAME")]
Run = Annotated[str | None, typer.Option(help="Default: STEPCRED_RUN.", metavar="NAME")]
StepOption = Annotated[str | None, typer.Option("--step", help="Default: STEPCRED_STEP.", metavar="NAME")]
WaitBroker = Annotated[
    str | None,
    typer.Option(
        help="Wait so long for a broker that is not there yet, as 30s. Default: STEPCRED_WAIT_BROKER.", metavar="SPAN"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]
