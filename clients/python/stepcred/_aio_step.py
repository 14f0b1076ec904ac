"""An open step of the asyncio client: heartbeats and successors come from tasks of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from concurrent import futures
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

from stepcred._aio_flights import TaskFlights
from stepcred._approvals import Tell
from stepcred._awaiting import seen, within
from stepcred._core import StepCore
from stepcred._credentials import Credential
from stepcred._current import AIO, LEASES
from stepcred._errors import DeadlineExceeded, NeedsApproval, StepcredError, StepEnded
from stepcred._models import Lease, LeaseOutcome, ScopeVerdict
from stepcred._refusals import Given
from stepcred._requests import checked_patience, checked_retry, checked_timeout, lease_id_of, note_failed_end
from stepcred._settings import seconds_of
from stepcred._step import StepView, dsn_of, environment
from stepcred._step_core import BEAT_AGAIN

if TYPE_CHECKING:
    import boto3
    import hvac

    from stepcred.aio import Driver


BEGIN_GRACE = 1.0  # seconds that a cancelled `async with` waits for what it has begun


class Step(StepView):
    """An open step. Heartbeats go out from a task for as long as the `async with` block runs."""

    def __init__(self, driver: Driver, core: StepCore) -> None:
        super().__init__(core)
        self._driver = driver
        self._wake = asyncio.Event()
        self._flights = TaskFlights[Credential](lambda scope: driver.run(self._keeping.desert(scope)))
        self._kept_changed = asyncio.Event()
        self._readers: set[asyncio.Event] = set()  # of `credentials`
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keeper: asyncio.Task[None] | None = None
        core.keeping.changed = self._tell_readers

    async def __aenter__(self) -> Self:
        self._must_be_new()
        self._loop = asyncio.get_running_loop()
        begin = asyncio.ensure_future(self._driver.run(self._core.begin()))
        begin.add_done_callback(seen)
        try:
            await asyncio.shield(begin)
        except asyncio.CancelledError:
            await self._undo(begin)
            raise
        self._beats = asyncio.create_task(self._beat(), name="stepcred-heartbeat")
        AIO.enter(self)
        return self

    async def _undo(self, begin: asyncio.Future[None]) -> None:
        """What nobody enters would be open until its silence is noticed, and keep its own next attempt out."""
        try:
            await asyncio.wait([begin], timeout=BEGIN_GRACE)
        finally:
            begin.cancel()
        if self._core.alive:
            with suppress(StepcredError):
                await self._driver.run(self._core.end())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        AIO.leave(self)
        if self._forked:
            return
        self._beats.cancel()
        if self._keeper is not None:
            self._keeper.cancel()
        # Shielded: a second cancellation stops our waiting, not the end of the step, for which `close` waits as well.
        end = asyncio.ensure_future(self._driver.run(self._core.end()))
        end.add_done_callback(seen)
        self._driver.ends.add(end)
        end.add_done_callback(self._driver.ends.discard)
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
        self._have(scope)
        return await self._live(scope, timeout)

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
                while (now := self._keeping.lasting(scope)) is last:
                    changed.clear()
                    await within(self._keeping.left_of(scope), changed)
                if now is None:
                    return
                last = now
        finally:
            self._readers.discard(changed)

    async def over(self) -> None:
        """Until the step is over, as far as its heartbeats tell."""
        changed = asyncio.Event()
        self._readers.add(changed)
        try:
            while self._core.alive:
                changed.clear()
                await changed.wait()
        finally:
            self._readers.discard(changed)

    @asynccontextmanager
    async def lease(
        self,
        scope: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 (as above)
        wait: timedelta | float = 5.0,
    ) -> AsyncGenerator[Credential, None]:
        """As `stepcred.Step.lease`, to use in an `async with`."""
        seconds = seconds_of("wait", wait)
        self._enter_lease(scope)
        try:
            yield await self._live(scope, timeout)
        except BaseException as error:
            try:
                await self._leave_lease(scope, seconds)
            except StepcredError as problem:
                error.add_note(f"the credential for {scope} could not be taken back yet: {problem}")
            raise
        await self._leave_lease(scope, seconds)

    async def env(self, *scopes: str, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """As `stepcred.Step.env`."""
        return environment([await self._lent(scope) for scope in scopes], base)

    async def dsn(self, scope: str, *, scheme: str = "postgresql") -> str:
        """As `stepcred.Step.dsn`."""
        return dsn_of(await self._lent(scope), scheme)

    async def boto3_session(self, scope: str) -> boto3.Session:
        """As `stepcred.Step.boto3_session`. boto3 blocks: use it in threads (`asyncio.to_thread`)."""
        from stepcred._boto3 import make_kept_session

        return make_kept_session(lambda: self._from_thread(scope), credential=await self.credential(scope))

    async def hvac_client(
        self,
        scope: str,
        *,
        timeout: float = 10.0,  # noqa: ASYNC109 (of the client's requests)
        verify: bool | str | None = None,
    ) -> hvac.Client:
        """As `stepcred.Step.hvac_client`. hvac blocks: use it in threads (`asyncio.to_thread`)."""
        from stepcred._hvac import make_client

        seconds, first = checked_timeout(timeout), await self.credential(scope)
        return make_client(lambda: self._from_thread(scope), timeout=seconds, verify=verify, credential=first)

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
        retry: int | None = None,
    ) -> Credential:
        """As `stepcred.Step.issue`."""
        flow = self._core.issue(
            scope,
            Given(replaces=lease_id_of(replaces), public_key=public_key, csr=csr),
            timeout=timeout,
            patience=None if approval_timeout is None else checked_patience(approval_timeout),
            tell=on_waiting,
            retry=None if retry is None else checked_retry(retry),
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

    async def revoke(self, lease: Credential | Lease | str, *, wait: timedelta | float = 5.0) -> LeaseOutcome:
        """As `stepcred.Step.revoke`."""
        return await self._driver.run(self._core.revoke(lease_id_of(lease), wait=wait))

    async def _lent(self, scope: str) -> Credential:
        while not self._lend(scope, credential := await self.credential(scope)):
            pass
        return credential

    async def _live(self, scope: str, timeout: float | None) -> Credential:  # noqa: ASYNC109 (as above)
        self._must_be_ours()
        seconds = None if timeout is None else checked_timeout(timeout)
        return await self._flights.join(
            scope, known=lambda: self._keeping.live(scope), get=lambda: self._first(scope, seconds), timeout=seconds
        )

    async def _first(self, scope: str, timeout: float | None) -> Credential:  # noqa: ASYNC109 (as above)
        credential = await self._driver.run(self._keeping.first(scope, timeout=timeout))
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="stepcred-successors")
        self._wake.set()
        return credential

    def _tell_readers(self) -> None:
        self._kept_changed.set()
        for reader in self._readers:
            reader.set()

    def _from_thread(self, scope: str) -> Credential:
        """For a library that blocks. In the loop's own thread it can only be had while it is live."""
        if (live := self._keeping.live(scope)) is not None:
            return live
        if self._loop is None or self._loop.is_closed() or not self._core.alive:
            raise StepEnded("this step has ended", reason="STEP_ENDED")
        with suppress(RuntimeError):
            if asyncio.get_running_loop() is self._loop:
                raise StepcredError(f"the credential for {scope} has ended: await step.credential(), or use a thread")
        found = asyncio.run_coroutine_threadsafe(self._live(scope, None), self._loop)
        try:
            return found.result(self._core.broker.timeout + self._core.patience + BEAT_AGAIN)
        except TimeoutError:
            found.cancel()
            raise DeadlineExceeded(f"{scope}: the event loop gave no answer in time") from None
        except futures.CancelledError:
            raise StepEnded("the event loop of this step is stopping", reason="STEP_ENDED") from None

    async def _leave_lease(self, scope: str, wait: float) -> None:
        LEASES.leave(self, scope)
        if self._forked:
            return
        self._flights.desert(scope)  # when we were cancelled, and it is not
        await self._driver.run(self._keeping.leave(scope, wait=wait))

    async def _beat(self) -> None:
        pause = self._core.interval
        while self._core.alive and not self._driver.closed:
            await within(pause, self._wake)
            self._wake.clear()
            pause = await self._driver.run(self._core.heartbeat())

    async def _keep(self) -> None:
        while self._core.alive and not self._driver.closed:
            pause = await self._driver.run(self._keeping.keep())
            await within(pause, self._kept_changed)
            self._kept_changed.clear()
