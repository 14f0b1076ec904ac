"""`stepcred aws-credential-process`, the long way: help, wrong arguments, names that a scheduler's variables give."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from stepcred import _settings
from stepcred.cli import _handle, _spans
from stepcred.cli._aws_process import _client
from stepcred.cli._aws_process._place import Asked
from stepcred.cli._names import Run, StepOption, WaitBroker, Workflow

NONE: list[str] = []


def aws_credential_process(
    scope: Annotated[str, typer.Argument(metavar="SCOPE")],
    *,
    also: Annotated[
        list[str],
        typer.Option(
            help="A further scope of the same step; name all of them in every profile. May be repeated.",
            metavar="SCOPE",
        ),
    ] = NONE,
    linger: Annotated[
        str, typer.Option(help="End the step so long after its last user has exited.", metavar="SPAN")
    ] = "10s",
    wait_broker: WaitBroker = None,
    workflow: Workflow = None,
    run: Run = None,
    step: StepOption = None,
    handle_file: Annotated[
        Path | None,
        typer.Option(help=f"Join the step that a launcher opened. Default: {_settings.HANDLE}.", metavar="FILE"),
    ] = None,
) -> int:
    """Print an AWS session for credential_process in ~/.aws/config. Never for people.

    The first call starts a keeper, which holds the step open until every process that had credentials of it has exited.
    Exit code 0, or why not: 64 usage, 69 broker unavailable, 75 later, or once operators have approved it, 77 denied,
    78 configuration.
    """
    handle = _handle.read(handle_file) if handle_file else os.environ.get(_settings.HANDLE, "")
    if handle and (workflow or run or step):
        raise typer.BadParameter(
            "a step that a launcher opened has its names already", param_hint="--workflow, --run, --step"
        )
    try:
        _spans.read(linger)
        patience = _spans.read(wait_broker) if wait_broker else None
    except ValueError as problem:
        raise typer.BadParameter(str(problem), param_hint="--linger, --wait-broker") from None
    name = None if handle else _settings.step_name(workflow=workflow, run=run, step=step)
    return _client.run(
        Asked(
            scope=scope,
            also=also,
            names=(name.workflow, name.run, name.step) if name else ("", "", ""),
            handle=handle,
            linger=linger,
            wait_broker=_settings.wait_broker(patience),
        )
    )
