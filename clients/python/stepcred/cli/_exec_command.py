"""The command line of `stepcred exec`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from stepcred import _settings
from stepcred._outlets import Unusable
from stepcred.cli import _exec, _handle, _spans, _wanted
from stepcred.cli._memory import keep_ours_private
from stepcred.cli._names import Run, StepOption, WaitBroker, Workflow
from stepcred.cli._say import Teller


def exec_(
    command: Annotated[list[str], typer.Argument(help="The program and its arguments, after --.", metavar="CMD")],
    scope: Annotated[
        list[str],
        typer.Option(help="Set this scope's usual variables. May be given several times.", metavar="SCOPE"),
    ] = [],  # noqa: B006 - typer's way, and read only
    env: Annotated[
        list[str],
        typer.Option(help="Set one variable, as in API_KEY=settings:data.api_key.", metavar="NAME=SCOPE:WHAT"),
    ] = [],  # noqa: B006
    file: Annotated[
        list[str],
        typer.Option(
            help="Write a private file in memory, removed at the end. TARGET is a path, or a variable that gets the "
            "path of a new one, as in PGPASSFILE=orders-db:pgpass.",
            metavar="TARGET=SCOPE[:WHAT]",
        ),
    ] = [],  # noqa: B006
    template: Annotated[
        list[str],
        typer.Option(help="The same from a file of yours with ${SCOPE:WHAT} in it.", metavar="SRC=TARGET"),
    ] = [],  # noqa: B006
    *,
    allow_disk: Annotated[bool, typer.Option("--allow-disk", help="Write files outside of memory, too.")] = False,
    no_mask: Annotated[
        bool, typer.Option("--no-mask", help="Leave the secrets in the output, and the output alone.")
    ] = False,
    workflow: Workflow = None,
    run: Run = None,
    step: StepOption = None,
    handle_file: Annotated[
        Path | None,
        typer.Option(help=f"Join the step that a launcher opened. Default: {_settings.HANDLE}.", metavar="FILE"),
    ] = None,
    approval_timeout: Annotated[
        str,
        typer.Option(help="Wait so long for operators to approve: 90s, 30m, 2h.", metavar="SPAN", show_default=False),
    ] = "",
    wait_broker: WaitBroker = None,
    kill_after: Annotated[
        str, typer.Option(help="Kill a CMD that is still there so long after SIGTERM; 0: never.", metavar="SPAN")
    ] = "20s",
    as_json: Annotated[bool, typer.Option("--json", help="Say on stderr one JSON object per line.")] = False,
) -> int:
    """Run CMD with credentials in its environment or in files; take them back when it ends.

    The exit code is CMD's own, 128+n after signal n. When CMD was not run: 64 usage, 69 broker unavailable, 74 a file
    cannot be written, 75 later, or once operators have approved it, 77 denied, 78 configuration, 126 not executable,
    127 not found.
    """
    if not command[0]:
        raise typer.BadParameter("the program has no name", param_hint="CMD")
    patience = _span(approval_timeout, "--approval-timeout") if approval_timeout else None
    deadline = _span(kill_after if kill_after != "0" else "0s", "--kill-after")
    handle = _handle.read(handle_file) if handle_file else os.environ.get(_settings.HANDLE, "")
    if handle and (workflow or run or step):
        raise typer.BadParameter(
            "a step that a launcher opened has its names already", param_hint="--workflow, --run, --step"
        )
    try:
        wanted = _wanted.read(scope, env, file, template, allow_disk=allow_disk)
    except Unusable as problem:
        raise typer.BadParameter(str(problem)) from None
    keep_ours_private()
    return _exec.run(
        _exec.Job(
            wanted=wanted,
            argv=command,
            workflow=workflow,
            run=run,
            step=step,
            handle=handle,
            approval_timeout=patience,
            mask=not no_mask,
            kill_after=deadline,
            wait_broker=_span(wait_broker, "--wait-broker") if wait_broker else None,
            as_json=as_json,
        )
    )


def speaks_json(argv: Sequence[str]) -> bool:
    """Whether this is an exec that was asked for JSON; what follows -- is its child's."""
    ours = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    return ours[:1] == ["exec"] and "--json" in ours


def failed(problem: str, code: int) -> int:
    """The last word of one that could not begin."""
    Teller(as_json=True).tell("ended", problem, exit_code=code, leases=[])
    return code


def _span(text: str, option: str) -> timedelta:
    try:
        return _spans.read(text)
    except ValueError as problem:
        raise typer.BadParameter(str(problem), param_hint=option) from None
