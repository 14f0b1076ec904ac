"""The daemon's life: readiness, signals, drain."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from broker import process
from broker.config import Config, OnStop
from broker.errors import ConfigError, StoreError
from broker.log import get_logger
from broker.wiring.serving import Daemon, running

log = get_logger(__name__)


async def reload(daemon: Daemon) -> None:
    """SIGHUP: scope map, front door, operators file and mint keys anew; a bad file keeps the last good one and alarms (I7)."""
    try:
        await daemon.core.policies.reload()
    except Exception:  # whatever it is, the rest is read
        log.exception("the scope map could not be loaded")
    try:
        await daemon.engine.settle_door()
    except Exception:
        log.exception("the front door could not be settled; it is tried again")
    try:
        await daemon.registry.reload()
    except Exception:
        log.exception("what came of the operators file could not be journalled; it is tried again")
    try:
        if await daemon.reload_keys():
            log.info("mint key rotated", kid=daemon.core.keyring.current)
    except ConfigError as error:
        log.error("mint key file refused; the keys in memory stay", problems=error.problems)  # noqa: TRY400 - expected
    except StoreError:
        log.exception("the new mint key could not be remembered; the old one stays current")


async def serve(config: Config, *, on_stop: OnStop) -> int:
    """Run until SIGTERM or SIGINT, then drain. Returns the exit code."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    reloads: set[asyncio.Task[None]] = set()
    async with running(config) as daemon:

        def hang_up() -> None:
            task = asyncio.create_task(reload(daemon))
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, hang_up)
        process.collect_seldom()
        process.sd_notify("READY=1", f"STATUS=serving {config.environment}")
        async with _watchdog():
            await stop.wait()
            process.sd_notify("STOPPING=1")
            log.info("draining", on_stop=on_stop.value)
            left = await daemon.engine.drain(revoke=on_stop is OnStop.REVOKE)
            await asyncio.gather(*reloads, return_exceptions=True)  # they need the store
    for lease in left:
        until = lease.expires_at.isoformat(timespec="seconds")
        log.error("not seen dead at the stop; the next start goes on", lease=lease.id, scope=lease.scope, until=until)
    log.info("stopped", not_seen_dead=len(left))
    return os.EX_TEMPFAIL if left and on_stop is OnStop.REVOKE else os.EX_OK


@asynccontextmanager
async def _watchdog() -> AsyncIterator[None]:
    """Tell systemd twice per interval that the event loop turns, when it wants to know."""
    interval = process.watchdog_seconds()

    async def bark(every: float) -> None:
        while True:
            process.sd_notify("WATCHDOG=1")
            await asyncio.sleep(every)

    task = asyncio.create_task(bark(interval / 2)) if interval else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
