"""The asyncio client: `async with stepcred.aio.connect() as broker, broker.step(...) as step: await step.issue(...)`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from stepcred import _settings
from stepcred._aio_step import Step
from stepcred._core import BrokerCore
from stepcred._current import AIO
from stepcred._errors import StepcredError
from stepcred._flow import Call, Flow
from stepcred._models import Identity, Launched, LeaseOutcome, ScopeVerdict
from stepcred._requests import checked_timeout
from stepcred._settings import Settings
from stepcred._status import CallFailed, call_failed
from stepcred._transport import OPTIONS, Lanes, target
from stepcred._workload_api import WorkloadApi

__all__ = ["Broker", "Step", "connect", "current_step"]

T = TypeVar("T")
END_GRACE = 1.0  # seconds


def connect(
    addr: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    ca: str | None = None,
    *,
    workload_api: WorkloadApi | None = None,
    timeout: float = 15.0,
    wait_broker: timedelta | float | None = None,
) -> Broker:
    """As `stepcred.connect`, to use in an `async with`, which is what waits for the Workload API."""
    seconds, patience = checked_timeout(timeout), _settings.wait_broker(wait_broker)
    settings = _settings.read(addr=addr, cert=cert, key=key, ca=ca, workload_api=workload_api)
    return Broker(settings, BrokerCore(addr=settings.addr, timeout=seconds, wait_broker=patience))


def current_step() -> Step:
    """As `stepcred.current_step`, for the steps of this module. A task has that of whoever started it."""
    step = AIO.get()
    if step is None:
        raise StepcredError("no step is open here: current_step() works inside of `async with broker.step(…)`")
    return step


class Driver:
    """Does what a flow yields, and hands the answer back to it."""

    def __init__(self, lanes: Lanes[grpc.aio.Channel]) -> None:
        self._lanes = lanes
        self.ends: set[asyncio.Future[None]] = set()  # of steps, under way

    @property
    def closed(self) -> bool:
        """Nobody is left to speak for."""
        return self._lanes.closed

    async def run(self, flow: Flow[T]) -> T:
        try:
            effect = next(flow)
            while True:
                if not isinstance(effect, Call):
                    await asyncio.sleep(effect.seconds)
                    effect = next(flow)
                    continue
                try:
                    response = await self._send(effect)
                except (CallFailed, StepcredError) as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(response)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _send(self, call: Call) -> Any:
        lane = self._lanes.enter()
        try:
            return await getattr(lane.stub, call.method)(call.request, timeout=call.timeout, wait_for_ready=False)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._lanes.closed and not (task and task.cancelling()):  # by the channel, so nobody has cancelled us
                raise self._lanes.over() from None
            raise
        except grpc.aio.UsageError:
            raise self._lanes.over() from None
        except grpc.aio.AioRpcError as error:
            if self._lanes.closed:
                raise self._lanes.over() from None
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._lanes.doubt(lane)
            raise call_failed(error.code().name, error.details(), error.trailing_metadata()) from None
        finally:
            for idle in self._lanes.leave(lane):
                await idle.close()


class Broker:
    """A connection to one broker, for the event loop that entered it."""

    def __init__(self, settings: Settings, core: BrokerCore) -> None:
        self._settings = settings
        self._core = core
        self._entered: Driver | None = None

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._settings.source.start)
        except BaseException:  # cancelled, too
            self._settings.source.close()
            raise
        # Not before: an aio channel belongs to the loop that is running when it is made.
        addr = self._settings.addr
        self._lanes = Lanes(
            self._settings.source, lambda tls: grpc.aio.secure_channel(target(addr), tls, options=OPTIONS)
        )
        self._entered = Driver(self._lanes)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled, but the ends of steps have a second to arrive."""
        if self._entered is None:
            return
        try:
            if self._entered.ends:
                await asyncio.wait(self._entered.ends, timeout=END_GRACE)
        finally:
            for channel in self._lanes.close():
                await channel.close()

    @property
    def _driver(self) -> Driver:
        if self._entered is None:
            raise StepcredError("this connection is not open yet: it is used in an `async with`")
        return self._entered

    def step(
        self,
        *,
        workflow: str | None = None,
        run: str | None = None,
        step: str | None = None,
        scopes: Iterable[str],
        max_duration: timedelta | float | None = None,
        wait: timedelta | float = 5.0,
        approval_timeout: timedelta | float | None = None,
        retry: int = 1,
    ) -> Step:
        """As `stepcred.Broker.step`, to use in an `async with`."""
        name = _settings.step_name(workflow=workflow, run=run, step=step)
        core = self._core.step(
            name, scopes, max_duration=max_duration, wait=wait, approval_timeout=approval_timeout, retry=retry
        )
        return Step(self._driver, core)

    def join(
        self,
        handle: str | None = None,
        *,
        wait: timedelta | float = 5.0,
        approval_timeout: timedelta | float | None = None,
        retry: int = 1,
    ) -> Step:
        """As `stepcred.Broker.join`, to use in an `async with`."""
        found = _settings.step_handle(handle)
        core = self._core.join(found, wait=wait, approval_timeout=approval_timeout, retry=retry)
        return Step(self._driver, core)

    async def launch(
        self,
        *,
        workflow: str | None = None,
        run: str | None = None,
        step: str | None = None,
        scopes: Iterable[str],
        on_behalf_of: str,
        definition_digest: str = "",
        max_duration: timedelta | float | None = None,
    ) -> Launched:
        """As `stepcred.Broker.launch`."""
        name = _settings.step_name(workflow=workflow, run=run, step=step)
        flow = self._core.launch(
            name,
            scopes,
            on_behalf_of=on_behalf_of,
            definition_digest=definition_digest,
            max_duration=max_duration,
        )
        return await self._driver.run(flow)

    async def end(self, handle: str, *, wait: timedelta | float = 5.0) -> tuple[LeaseOutcome, ...]:
        """As `stepcred.Broker.end`."""
        return await self._driver.run(self._core.end(handle, wait=wait))

    async def whoami(self) -> Identity:
        """What the broker makes of our certificate."""
        return await self._driver.run(self._core.whoami())

    async def check(
        self,
        *,
        workflow: str | None = None,
        run: str | None = None,
        step: str | None = None,
        scopes: Iterable[str],
        show_policy: bool = False,
    ) -> tuple[ScopeVerdict, ...]:
        """What such a step could have, without opening it; with `show_policy`, also what it could do with it."""
        name = _settings.step_name(workflow=workflow, run=run, step=step)
        return await self._driver.run(self._core.check(name, scopes, show_policy=show_policy))
