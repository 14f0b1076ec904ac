"""The commands. A command returns its exit code; nothing here raises SystemExit."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

import stepcred
from stepcred._digest import definition_digest
from stepcred._errors import StepcredError
from stepcred.cli import _admin, _asking, _definition, _doctor, _exec, _exec_command, _exits, _handle
from stepcred.cli._aws_process._command import aws_credential_process
from stepcred.cli._doctor import _show
from stepcred.cli._names import Json, Run, StepOption, Workflow
from stepcred.cli._say import as_json_text
from stepcred.cli._sidecar._command import sidecar

app = typer.Typer(
    name="stepcred",
    help="Short-lived credentials for one step of a workflow, taken back when it ends.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback with local variables would show secrets
)
app.add_typer(_admin.app)

Base = Annotated[str | None, typer.Option(metavar="DIR", help="Names are relative to it.  (default: this folder)")]


def run() -> int:
    """Parse, do, and turn every expected error into its exit code."""
    try:
        result = app(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except StepcredError as error:
        lines = _exits.lines_of(error)
        for line in [] if _exec_command.speaks_json(sys.argv) else lines:
            _exec.say(line)
        return _answered("; ".join(lines), _exits.exit_code(error))
    except _definition.Unusable as problem:
        _exec.say(str(problem))
        return _answered(str(problem), _exits.NO_INPUT)
    except (UnicodeEncodeError, _usage_error()) as error:
        return _misused(error)
    except (OSError, SystemExit) as error:
        return _not_written(error)
    except (KeyboardInterrupt, typer.Abort):
        return _exits.SIGNALLED + 2
    return result if isinstance(result, int) else 0


def _not_written(error: OSError | SystemExit) -> int:
    """Of the output: whatever else can fail so is a StepcredError by now.

    Click and rich exit with 1 when its reader has gone, which would be an answer: `can`'s no.
    """
    if isinstance(error, OSError):
        _exec.say(f"cannot write the answer: {error.strerror}")
    elif error.code != 1:
        raise error
    sys.stdout = None  # or Python tries again on its way out, and says so
    return _exits.CANNOT_WRITE


def _answered(problem: str, code: int) -> int:
    """A program that asked with --json finds an object, whatever came of it. exec's arguments are its child's."""
    if _exec_command.speaks_json(sys.argv):
        return _exec_command.failed(problem, code)
    if "--json" in sys.argv and "exec" not in sys.argv[1:2]:
        with contextlib.suppress(OSError):  # it is on stderr too
            print(json.dumps({"error": problem, "exit_code": code}), flush=True)  # noqa: T201
    return code


def _misused(error: Any) -> int:
    if isinstance(error, UnicodeEncodeError):  # of what the broker is told
        error = typer.BadParameter("a name of a scope, workflow, run or step is not UTF-8")
    if _exec_command.speaks_json(sys.argv):
        return _exec_command.failed(error.format_message(), _exits.USAGE)
    error.show()
    return _answered("wrong arguments", _exits.USAGE)


def _usage_error() -> type[Exception]:
    """Click's UsageError: newer typers carry their own copy, which they do not export."""
    return next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")


def _print_version(wanted: bool) -> None:  # noqa: FBT001 (typer's callback)
    if wanted:
        print(f"stepcred {version('stepcred')}")  # noqa: T201
        raise typer.Exit


@app.callback()
def options(
    *,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Short-lived credentials for one step of a workflow, taken back when it ends."""


app.command("exec", context_settings={"allow_interspersed_args": False})(_exec_command.exec_)
app.command()(sidecar)
app.command()(aws_credential_process)
app.command()(_asking.can)
app.command()(_asking.whoami)


@app.command()
def launch(
    scope: Annotated[list[str], typer.Argument(help="What the step may ask for.", metavar="SCOPE...")],
    *,
    on_behalf_of: Annotated[str, typer.Option("--for", help="The workload's SPIFFE ID.", metavar="SPIFFE_ID")],
    workflow: Workflow = None,
    run: Run = None,
    step: StepOption = None,
    definition: Annotated[
        list[str], typer.Option(help="The workflow's definition; may be given several times.", metavar="FILE")
    ] = [],  # noqa: B006 - typer's way, and read only
    base: Base = None,
    said: Annotated[
        str,
        typer.Option(
            "--definition-digest", help="Instead: its `stepcred digest`.", metavar="sha256:…", show_default=False
        ),
    ] = "",
    handle_file: Annotated[
        Path | None, typer.Option(help="Write the handle to this new file, not to stdout.", metavar="FILE")
    ] = None,
    as_json: Json = False,
) -> int:
    """Open a step for a workload, as its launcher, and print the handle, with which the workload joins it.

    Give it to the workload as STEPCRED_STEP_HANDLE, or as a file; it is of use with the workload's certificate only.
    """
    if said and definition:
        raise typer.BadParameter("give the definition or its digest, not both", param_hint="--definition")
    made = definition_digest(_definition_of(definition, base)) if definition else said
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(_handle.new_file(handle_file)) if handle_file else None
        broker = stack.enter_context(stepcred.connect())
        launched = broker.launch(
            workflow=workflow,
            run=run,
            step=step,
            scopes=list(dict.fromkeys(scope)),
            on_behalf_of=on_behalf_of,
            definition_digest=made,
        )
        if write:
            write(launched.handle)
            launched = replace(launched, handle="")
    for verdict in launched.verdicts:
        if not verdict.granted:
            _exec.say(*_exec.explain(verdict))
    if as_json:
        print(as_json_text(launched))  # noqa: T201
    elif not handle_file:
        print(launched.handle)  # noqa: T201
    return 0


@app.command()
def doctor(
    *,
    handle_file: Annotated[
        Path | None, typer.Option(help="Look at this file too, as exec would read it.", metavar="FILE")
    ] = None,
    as_json: Json = False,
) -> int:
    """Look for whatever keeps a step from its broker, and say what to type against it. Changes nothing.

    Settings, files, certificate, variables, name, TCP, TLS, the broker's answer, clocks. Exit code 0: nothing stands
    in the way; 1: something does; 69: the broker cannot be reached; 78: the settings must be changed.
    """
    looked = _doctor.examine(os.environ, handle_file=handle_file)
    code = _doctor.exit_code(looked)
    if as_json:
        print(json.dumps(_show.as_json(looked, code), indent=2))  # noqa: T201
    else:
        _show.show(looked)
    return code


@app.command()
def digest(
    file: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files or folders; - for standard input.")],
    *,
    base: Base = None,
    as_json: Json = False,
) -> int:
    """Print a workflow definition's digest, for definition_digest: of a grant.

    One FILE alone, or -, gives the same digest under any name and in any folder; with --base, or among several, its
    name counts. Of a folder every file counts, hidden ones too. Exit code 66: a file cannot be used.
    """
    files = _definition_of(file, base)
    made = definition_digest(files)
    print(json.dumps({"digest": made, "files": sorted(filter(None, files))}, indent=2) if as_json else made)  # noqa: T201
    return 0


def _definition_of(files: list[str], base: str | None) -> dict[str, bytes]:
    if base is not None and _definition.STDIN in files:
        raise typer.BadParameter("standard input has no name that could be relative to it", param_hint="--base")
    return _definition.read(files, base)
