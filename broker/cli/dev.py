"""`stepcred-broker dev`: a whole broker in one process, for writing a workflow."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker import log, process
from broker.cli.options import fail
from broker.config import Address, LogLevel
from broker.config.values import parse_address
from broker.errors import ConfigError, unreadable
from broker.model import JsonValue
from broker.policy.problems import did_you_mean, show
from broker.secret import Secret

if TYPE_CHECKING:
    from broker.wiring.dev.broker import DevBroker
    from broker.wiring.dev.events import Event

_LOOK = 0.2  # seconds between looks at what happened
_ANY = "127.0.0.1:0"
_SAID_BY_THE_VIEW = ("broker.policy.live.holder", "broker.leases.halting")  # maps with file and line; what is locked


def dev(  # noqa: PLR0917 - options, in the order of --help
    scopes: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A scope map, or the folder of one; watched for changes.")
    ] = None,
    agent: Annotated[
        list[str] | None, typer.Option(metavar="SPIFFE-ID", help="A certificate for this agent, too; repeat it.")
    ] = None,
    as_agent: Annotated[
        str,
        typer.Option(
            "--as", metavar="SPIFFE-ID", help="No broker: settings of an agent for the one that runs already."
        ),
    ] = "",
    value: Annotated[
        list[str] | None,
        typer.Option(metavar="SCOPE:NAME=TEXT", help="What stand-ins of a scope hold; repeat it."),
    ] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where agents connect; a free port.")] = _ANY,
    http: Annotated[str, typer.Option(metavar="HOST:PORT", help="Health and metrics; a free port.")] = _ANY,
    env_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the first agent's settings here, KEY=VALUE, mode 600.")
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(help="Of the broker's own log.")] = LogLevel.ERROR,
    *,
    example: Annotated[bool, typer.Option("--example", help="No broker: print a scope map to begin with.")] = False,
    control: Annotated[
        bool,
        typer.Option("--control", help="For test suites: an endpoint for orders; ends when standard input closes."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Run a whole broker with throw-away certificates and stand-ins for credentials, until Ctrl-C.

    Real engine, real scope map, real refusals; it never contacts Vault or AWS, and refuses a production map.
    """
    if example:
        from broker.wiring.dev.example import MAP

        typer.echo(MAP, nl=False)
        return
    if as_agent:
        _be(as_agent, as_json=as_json)
        return
    if scopes is None:
        fail(os.EX_USAGE, "name a scope map or its folder: stepcred-broker dev --scopes DIR")
    from broker.wiring.dev import maps

    if problems := maps.real_settings(scopes, os.environ):
        fail(os.EX_CONFIG, *problems)
    _must_be_free(env_file)
    addresses = [_loopback(name, text) for name, text in (("--listen", listen), ("--http", http))]
    path = maps.find_map(scopes)
    values = _values(value or [], maps.load_dev_map(path).scopes)
    process.harden()  # before anything is made
    log.configure(log_level.value, "console")
    for name in _SAID_BY_THE_VIEW:
        logging.getLogger(name).setLevel(logging.CRITICAL)

    from broker.rpc.loop import Loop
    from broker.wiring.dev.broker import DevBroker
    from broker.wiring.dev.folder import private_folder

    with private_folder() as folder, _no_longer_than(env_file):
        listen_at, http_at = addresses
        broker = DevBroker(folder, path, listen=listen_at, http=http_at, values=values, tell=_tell)
        with asyncio.Runner(debug=False, loop_factory=Loop) as runner:
            runner.run(_serve(broker, agent or [], env_file, control=control, as_json=as_json))


async def _serve(
    broker: DevBroker, wanted: Sequence[str], env_file: Path | None, *, control: bool, as_json: bool
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await broker.start()
    try:
        async with contextlib.AsyncExitStack() as stack:
            orders = await stack.enter_async_context(_controlled(broker, stop)) if control else {}
            _say(broker, wanted, env_file, orders, as_json=as_json)
            await _view(broker, stop)
    finally:
        await broker.stop(revoke=True)


def _say(
    broker: DevBroker,
    wanted: Sequence[str],
    env_file: Path | None,
    orders: dict[str, JsonValue],
    *,
    as_json: bool,
) -> None:
    """To standard output, and nothing after it."""
    from broker.wiring.dev import told
    from broker.wiring.dev.running import note

    note(broker.site)
    named = [broker.describe(one) for one in wanted] + broker.agents()
    overview = told.overview(broker, list({one.id: one for one in named}.values()))
    if env_file is not None:
        if not named:
            raise ConfigError(["--env-file: the map names no agent by itself; add --agent SPIFFE-ID"])
        try:
            process.replace_file(env_file, told.env_file(overview["agents"][0]["env"]))
        except OSError as error:
            raise ConfigError([f"--env-file {env_file}: cannot be written: {error.strerror}"]) from None
    typer.echo(json.dumps(overview | orders) if as_json else "\n".join(told.lines(overview)))
    sys.stdout.flush()


@contextlib.asynccontextmanager
async def _controlled(broker: DevBroker, stop: asyncio.Event) -> AsyncIterator[dict[str, JsonValue]]:
    """The token lies in the private folder: standard output may end in somebody's log."""
    from broker.http.control import ControlServer
    from broker.wiring.dev.control import orders_of

    token = secrets.token_urlsafe(32)
    path = broker.site.folder / "control-token"
    process.replace_file(path, token)
    server = ControlServer(orders_of(broker), Secret(token))
    url = await server.start()
    loop = asyncio.get_running_loop()

    def heard() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            stop.set()
            loop.remove_reader(sys.stdin.fileno())

    try:
        loop.add_reader(sys.stdin.fileno(), heard)
    except OSError:  # a file, or nothing: there is nobody who could close it
        raise ConfigError(["--control: standard input must be a pipe; whoever started this keeps it open"]) from None
    try:
        yield {"control": url, "control_token_file": str(path)}
    finally:
        loop.remove_reader(sys.stdin.fileno())
        await server.stop()


async def _view(broker: DevBroker, stop: asyncio.Event) -> None:
    """What happens is told, until somebody stops it."""
    while not stop.is_set():
        await broker.look()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK):
                await stop.wait()


def _tell(event: Event) -> None:
    for line in event.lines():
        typer.echo(line, err=True)


def _be(spiffe_id: str, *, as_json: bool) -> None:
    """Settings of one agent, for a dev broker that runs. Raises ConfigError."""
    from broker.wiring.dev.running import settings_for

    variables = settings_for(spiffe_id)
    from broker.wiring.dev.told import export

    typer.echo(json.dumps(variables) if as_json else export(variables))


def _loopback(option: str, text: str) -> Address:
    try:
        address = parse_address(text)
    except ValueError as error:
        fail(os.EX_USAGE, f"{option} {error}")
    if not address.loopback:
        fail(os.EX_USAGE, f"{option} must be a loopback address: its keys are throw-away, and its answers stand-ins")
    return address


def _values(given: Sequence[str], known: Collection[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for one in given:
        where, equals, text = one.partition("=")
        scope, colon, name = where.rpartition(":")
        if not (equals and colon and scope and name):
            fail(os.EX_USAGE, "--value must be SCOPE:NAME=TEXT, for example orders-db:password=hunter2")
        if scope not in known:
            fail(os.EX_USAGE, f"--value: no scope is named {show(scope)}{did_you_mean(scope, known)}")
        found.setdefault(scope, {})[name] = text
    return found


@contextlib.contextmanager
def _no_longer_than(path: Path | None) -> Iterator[None]:
    """A file of settings that lead nowhere misleads."""
    from broker.wiring.dev.told import is_env_file

    try:
        yield
    finally:
        if path is not None and path.exists() and is_env_file(path):
            path.unlink(missing_ok=True)


def _must_be_free(path: Path | None) -> None:
    """It is overwritten, and removed at the end: what else lies there is somebody's."""
    from broker.wiring.dev.told import is_env_file

    try:
        if path is None or not path.exists() or is_env_file(path):
            return
        problem = "holds something else than the settings of a step; name another file, or remove it"
    except OSError as error:
        problem = unreadable(error)
    fail(os.EX_USAGE, f"--env-file {path}: {problem}")
