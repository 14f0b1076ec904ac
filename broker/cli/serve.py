"""`stepcred-broker serve`: the daemon in the foreground, for systemd, a container or a terminal."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer

from broker import log, process
from broker.cli.options import ConfigFile
from broker.config import LogFormat, LogLevel, OnStop, load


def serve(
    config: ConfigFile,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where agents connect; overrides listen.grpc.")
    ] = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="Overrides log.level.")] = None,
    log_format: Annotated[LogFormat | None, typer.Option(help="Overrides log.format.")] = None,
    on_stop: Annotated[
        OnStop, typer.Option(help="What SIGTERM does to live leases: keep them for the next start, or revoke them.")
    ] = OnStop.KEEP,
) -> None:
    """Run the daemon until SIGTERM or SIGINT."""
    not_hardened = process.harden()  # before anything secret is read
    flags = {
        "listen.grpc": listen,
        "log.level": log_level and log_level.value,
        "log.format": log_format and log_format.value,
    }
    settings = load(config, os.environ, {key: text for key, text in flags.items() if text})
    log.configure(settings.log.level.value, settings.log.format.value)
    for problem in not_hardened:
        log.get_logger(__name__).warning(problem)

    from broker.cli import life
    from broker.rpc.loop import Loop

    # Not to be debugged: it would print what callbacks were given.
    with asyncio.Runner(debug=False, loop_factory=Loop) as runner:
        code = runner.run(life.serve(settings, on_stop=on_stop))
    raise typer.Exit(code)
