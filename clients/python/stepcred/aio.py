"""The asyncio client: `async with stepcred.aio.connect() as broker, broker.step(...) as step: await step.issue(...)`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from stepcred import _settings
from stepcred._approvals import Tell
from stepcred._core import BrokerCore, StepCore
from stepcred._credentials import Credential
from stepcred._errors import DeadlineExceeded, NeedsApproval, StepcredError, StepEnded
from stepcred._flights import for_another
from stepcred._flow import Call, Flow
from stepcred._models import Identity, Launched, Lease, LeaseOutcome, ScopeVerdict
from stepcred._refusals import Given
from stepcred._requests import checked_patience, checked_timeout, lease_id_of, note_failed_end
from stepcred._settings import Settings
from stepcred._status import CallFailed, call_failed
from stepcred._step import StepView
from stepcred._transport import OPTIONS, Lanes
from stepcred._workload_api import WorkloadApi

__all__ = ["Broker", "Step", "connect"]

T = TypeVar("T")


def connect(
    addr: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    ca: str | None = None,
    *,
    workload_api: WorkloadApi | None = None,
    timeout: float = 15.0,
) -> Broker:
    """As `stepcred.connect`, to use in an `async with`, which is what waits for the Workload API."""
    settings = _settings.read(addr=addr, cert=cert, key=key, ca=ca, workload_api=workload_api)
    return Broker(settings, BrokerCore(addr=settings.addr, timeout=checked_timeout(timeout)))


class Driver:
    """Does what a flow yields, and hands the answer back to it."""

    def __init__(self, lanes: Lanes[grpc.aio.Channel]) -> None:
        self._lanes = lanes

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
        except grpc.aio.AioRpcError as error:
            raise call_failed(error.code().name, error.details(), error.trailing_metadata()) from None
        finally:
            for idle in self._lanes.leave(lane):
                await idle.close()


class Broker:
    """A connection to one broker, for the event loop that entered it."""

    def __init__(self, settings: Settings, core: BrokerCore) -> None:
        self._settings = settings
        self._core = core

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._settings.source.start)
        except BaseException:  # cancelled, too
            self._settings.source.close()
            raise
        # Not before: an aio channel belongs to the loop that is running when it is made.
        addr = self._settings.addr
        self._lanes = Lanes(self._settings.source, lambda tls: grpc.aio.secure_channel(addr, tls, options=OPTIONS))
        self._driver = Driver(self._lanes)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        for channel in self._lanes.close():
            await channel.close()

    def step(
        self,
        *,
        workflow: str | None = None,
        run: str | None = None,
        step: str | None = None,
        scopes: Iterable[str],
        max_duration: timedelta | float | None = None,
        wait: float = 5.0,
        approval_timeout: timedelta | float | None = None,
    ) -> Step:
        """As `stepcred.Broker.step`, to use in an `async with`."""
        name = _settings.step_name(workflow=workflow, run=run, step=step)
        core = self._core.step(name, scopes, max_duration=max_duration, wait=wait, approval_timeout=approval_timeout)
        return Step(self._driver, core)

    def join(
        self,
        handle: str | None = None,
        *,
        wait: float = 5.0,
        approval_timeout: timedelta | float | None = None,
    ) -> Step:
        """As `stepcred.Broker.join`, to use in an `async with`."""
        core = self._core.join(_settings.step_handle(handle), wait=wait, approval_timeout=approval_timeout)
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

    async def end(self, handle: str, *, wait: float = 5.0) -> tuple[LeaseOutcome, ...]:
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


class Step(StepView):
    """An open step. Heartbeats go out from a task for as long as the `async with` block runs."""

    def __init__(self, driver: Driver, core: StepCore) -> None:
        super().__init__(core)
        self._driver = driver
        self._wake = asyncio.Event()
        self._flights: dict[str, asyncio.Task[Credential]] = {}
        self._kept_changed = asyncio.Event()
        self._readers: set[asyncio.Event] = set()  # of `credentials`
        self._keeper: asyncio.Task[None] | None = None
        core.keeping.changed = self._tell_readers

    async def __aenter__(self) -> Self:
        await self._driver.run(self._core.begin())
        self._beats = asyncio.create_task(self._beat(), name="stepcred-heartbeat")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._beats.cancel()
        if self._keeper is not None:
            self._keeper.cancel()
        # Shielded: a second cancellation stops our waiting, not the end of the step.
        end = asyncio.ensure_future(self._driver.run(self._core.end()))
        try:
            await asyncio.shield(end)
        except StepcredError as problem:
            if error is None:
                raise
            note_failed_end(error, problem)

    async def credential(
        self,
        scope: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 (a deadline of the call, told to the broker)
    ) -> Credential:
        """As `stepcred.Step.credential`. A caller that is cancelled does not cancel it for the others."""
        seconds = None if timeout is None else checked_timeout(timeout)
        if (live := self._core.live(scope)) is not None:
            return live
        flight, mine = self._flights.get(scope), False
        if flight is None:
            mine = True
            flight = asyncio.create_task(self._first(scope, seconds), name=f"stepcred-credential-{scope}")
            self._flights[scope] = flight
            flight.add_done_callback(lambda done: self._landed(scope, done))
        try:
            return await asyncio.wait_for(asyncio.shield(flight), None if mine else seconds)
        except TimeoutError:
            raise DeadlineExceeded(f"{scope}: no answer in time to what another task asks for") from None
        except StepcredError as error:
            raise error if mine else for_another(error)  # noqa: B904 (the same answer)
        except asyncio.CancelledError:
            if flight.cancelled():  # with its channel: the connection was closed
                raise StepEnded("the connection to the broker is closed", reason="STEP_ENDED") from None
            raise

    async def credentials(self, scope: str) -> AsyncGenerator[Credential, None]:
        """The live credential of this scope, and then each that takes its place. Ends when the step ends.

        Raises as `credential` does, and when it can be kept no longer: why there is no successor, when it ends by its
        time, Refused with LEASE_ENDED when it was ended before.
        """
        changed = asyncio.Event()
        self._readers.add(changed)
        try:
            last = await self.credential(scope)
            while self._core.alive:
                yield last
                while (now := self._core.lasting(scope)) is last:
                    changed.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(changed.wait(), self._core.left_of(scope))
                if now is None:
                    return
                last = now
        finally:
            self._readers.discard(changed)

    def _landed(self, scope: str, flight: asyncio.Task[Credential]) -> None:
        self._flights.pop(scope, None)
        if not flight.cancelled():
            flight.exception()  # seen, also when nobody waits any more

    def _tell_readers(self) -> None:
        self._kept_changed.set()
        for reader in self._readers:
            reader.set()

    async def _first(self, scope: str, timeout: float | None) -> Credential:  # noqa: ASYNC109 (as above)
        credential = await self._driver.run(self._core.credential(scope, timeout=timeout))
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="stepcred-successors")
        self._wake.set()
        return credential

    async def issue(
        self,
        scope: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 (a deadline of the call, told to the broker)
        replaces: Credential | Lease | str | None = None,
        public_key: str = "",
        csr: str = "",
        approval_timeout: timedelta | float | None = None,
        on_waiting: Tell | None = None,
    ) -> Credential:
        """As `stepcred.Step.issue`."""
        flow = self._core.issue(
            scope,
            Given(replaces=lease_id_of(replaces), public_key=public_key, csr=csr),
            timeout=timeout,
            patience=None if approval_timeout is None else checked_patience(approval_timeout),
            tell=on_waiting,
        )
        credential = await self._driver.run(flow)
        self._wake.set()
        return credential

    async def check(self, scopes: Iterable[str], *, show_policy: bool = False) -> tuple[ScopeVerdict, ...]:
        """As `stepcred.Step.check`."""
        return await self._driver.run(self._core.check(scopes, show_policy=show_policy))

    async def wait_for_approval(
        self,
        waiting: Iterable[NeedsApproval],
        *,
        approval_timeout: timedelta | float,
        on_waiting: Tell | None = None,
    ) -> None:
        """As `stepcred.Step.wait_for_approval`."""
        patience = checked_patience(approval_timeout)
        await self._driver.run(self._core.wait_for_approval(waiting, patience=patience, tell=on_waiting))

    async def revoke(self, lease: Credential | Lease | str, *, wait: float = 5.0) -> LeaseOutcome:
        """As `stepcred.Step.revoke`."""
        return await self._driver.run(self._core.revoke(lease_id_of(lease), wait=wait))

    async def _beat(self) -> None:
        pause = self._core.interval
        while self._core.alive:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)
            self._wake.clear()
            pause = await self._driver.run(self._core.heartbeat())

    async def _keep(self) -> None:
        while self._core.alive:
            pause = await self._driver.run(self._core.keep())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._kept_changed.wait(), pause)
            self._kept_changed.clear()
