"""`stepcred sidecar`: its options."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from stepcred import _settings
from stepcred._outlets import scopes_of
from stepcred.cli import _exits, _handle, _spans
from stepcred.cli._memory import keep_private
from stepcred.cli._names import Run, StepOption, WaitBroker, Workflow
from stepcred.cli._sidecar import _places
from stepcred.cli._sidecar._held import Wanted
from stepcred.cli._sidecar._life import Life
from stepcred.cli._sidecar._plan import Plan
from stepcred.cli._sidecar._tell import Teller

T = TypeVar("T")

LISTEN = "127.0.0.1:4488"
# typer's way of lists that are only read
NONE: list[str] = []


def sidecar(
    *,
    aws: Annotated[
        list[str], typer.Option(help="Serve this scope at /v1/aws/SCOPE. May be repeated.", metavar="SCOPE")
    ] = NONE,
    listen: Annotated[str, typer.Option(help="On loopback only; port 0: any.", metavar="ADDR:PORT")] = LISTEN,
    token_file: Annotated[
        Path | None, typer.Option(help="Written by the sidecar: what readers send as Authorization.", metavar="FILE")
    ] = None,
    env_file: Annotated[
        Path | None,
        typer.Option(help="AWS_CONTAINER_* of the first --aws scope, for a shell; no secret.", metavar="FILE"),
    ] = None,
    vault_token_file: Annotated[
        list[str], typer.Option(help="A Vault token into a file. May be repeated.", metavar="PATH=SCOPE")
    ] = NONE,
    file: Annotated[
        list[str],
        typer.Option(help="A field or a format into a file. May be repeated.", metavar="PATH=SCOPE[:WHAT]"),
    ] = NONE,
    template: Annotated[
        list[str],
        typer.Option(help="SRC with ${scope:what} filled in. May be repeated.", metavar="SRC=DEST"),
    ] = NONE,
    file_mode: Annotated[
        str, typer.Option(help=f"Of all files: {', '.join(_places.FILE_MODES)}.", metavar="MODE")
    ] = "0600",
    group: Annotated[str, typer.Option(help="Of all files.", metavar="GID", show_default=False)] = "",
    allow_disk: Annotated[bool, typer.Option("--allow-disk", help="Files may lie on a disk.")] = False,
    watch: Annotated[int | None, typer.Option(help="End when this process exits.", metavar="PID", min=1)] = None,
    ready_listen: Annotated[
        str, typer.Option(help="/readyz and /livez alone, on any address.", metavar="ADDR:PORT", show_default=False)
    ] = "",
    wait_broker: WaitBroker = None,
    approval_timeout: Annotated[
        str,
        typer.Option(help="Wait so long for operators to approve: 90s, 30m, 2h.", metavar="SPAN", show_default=False),
    ] = "",
    workflow: Workflow = None,
    run: Run = None,
    step: StepOption = None,
    handle_file: Annotated[
        Path | None,
        typer.Option(help=f"Join the step that a launcher opened. Default: {_settings.HANDLE}.", metavar="FILE"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object a line on stderr.")] = False,
) -> int:
    """Hold a step's credentials for the programs beside us, and take them back when the step ends.

    Ends on SIGTERM, SIGINT, POST /v1/end, or the exit of --watch. Exit code 0 then: the last line says what is dead.
    Otherwise: 64 usage, 69 broker unavailable, or it could not be told of the end, 75 later, or once operators have
    approved it, 77 denied, 78 configuration.
    """
    handle = _handle.read(handle_file) if handle_file else os.environ.get(_settings.HANDLE, "")
    if handle and (workflow or run or step):
        raise typer.BadParameter(
            "a step that a launcher opened has its names already", param_hint="--workflow, --run, --step"
        )
    files = [
        *_each("--vault-token-file", _places.token_file, vault_token_file),
        *_each("--file", _places.file_of, file),
    ]
    templates = _each("--template", _places.template, template)
    served = _each("--aws", _places.scope, dict.fromkeys(aws))
    named = [*served, *(one.scope for one in files), *(name for one in templates for name in scopes_of(one.text))]
    if not named:
        raise typer.BadParameter("nothing to do: give --aws, --vault-token-file, --file or --template")
    _must_fit_the_endpoint(served=bool(served), token_file=token_file, env_file=env_file)
    paths = [*(one.path for one in files), *(one.path for one in templates), *(p for p in (token_file, env_file) if p)]
    _must_differ(paths)
    plan = Plan(
        wanted=Wanted(
            scopes=list(dict.fromkeys(named)),
            workflow=workflow,
            run=run,
            step=step,
            handle=handle,
            wait_broker=_one("--wait-broker", _spans.read, wait_broker) if wait_broker else None,
            approval_timeout=_one("--approval-timeout", _spans.read, approval_timeout) if approval_timeout else None,
        ),
        aws=served,
        listen=_one("--listen", _places.loopback, listen) if token_file else None,
        token_file=token_file,
        env_file=env_file,
        files=files,
        templates=templates,
        ready_listen=_one("--ready-listen", _places.address, ready_listen) if ready_listen else None,
        watch=watch,
        allow_disk=allow_disk,
        file_mode=_one("--file-mode", _places.mode, file_mode),
        group=_one("--group", _places.group, group) if group else None,
    )
    teller = Teller(as_json=as_json)
    if (plan.listen or plan.ready_listen) and not _has_aiohttp():
        teller.tell("failed", "the endpoints need an extra: pip install 'stepcred[sidecar]'", level="error")
        return _exits.UNAVAILABLE
    keep_private()
    return asyncio.run(_live(plan, teller))


def _must_fit_the_endpoint(*, served: bool, token_file: Path | None, env_file: Path | None) -> None:
    if served and token_file is None:
        raise typer.BadParameter(
            "--aws needs it: who may read the file, may have the credentials", param_hint="--token-file"
        )
    if env_file and not served:
        raise typer.BadParameter("is about --aws, which is not given", param_hint="--env-file")


def _must_differ(paths: list[Path]) -> None:
    if len({os.path.abspath(path) for path in paths}) < len(paths):  # noqa: PTH100 (`..` counts)
        raise typer.BadParameter("two of the files have the same path")


async def _live(plan: Plan, teller: Teller) -> int:
    return await Life(plan, teller).run()


def _has_aiohttp() -> bool:
    try:
        import aiohttp  # noqa: F401 (only whether it is there)
    except ModuleNotFoundError:
        return False
    return True


def _one(option: str, read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except ValueError as problem:
        raise typer.BadParameter(str(problem), param_hint=option) from None


def _each(option: str, read: Callable[[str], T], texts: Iterable[str]) -> list[T]:
    return [_one(option, read, text) for text in texts]
