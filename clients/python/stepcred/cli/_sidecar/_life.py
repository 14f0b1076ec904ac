"""One sidecar from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

from stepcred._errors import NeedsApproval, Refused, StepcredError
from stepcred._outlets import PrivateFile, Unusable
from stepcred._refusals import is_final
from stepcred.cli import _exits
from stepcred.cli._exec import explain
from stepcred.cli._sidecar import _aws
from stepcred.cli._sidecar._held import Denied, Held
from stepcred.cli._sidecar._plan import Plan, environment_file
from stepcred.cli._sidecar._sinks import Sinks
from stepcred.cli._sidecar._state import State
from stepcred.cli._sidecar._tell import Teller
from stepcred.cli._sidecar._told import ASK_AGAIN, ENDING, Told, told
from stepcred.cli._sidecar._watch import Watched

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TOKEN_BYTES = 32
LOST = "LEASE_ENDED"  # ended by somebody who meant it: not minted again into a file


class Life:
    """`run` it once."""

    def __init__(self, plan: Plan, teller: Teller) -> None:
        self._plan = plan
        self._tell = teller.tell
        self._hearing = teller.hearing_the_sdk
        self._state = State(aws=plan.aws)
        self._stop = asyncio.Event()
        self._uri = ""

    async def run(self) -> int:
        """The exit code. Everything expected is told, nothing raised."""
        with self._hearing(), self._signals():
            try:
                with self._watching() as gone:
                    if gone:
                        self._tell("ended", f"process {self._plan.watch} has exited already; nothing was opened")
                        return 0
                    async with AsyncExitStack() as stack:
                        sinks = self._files(stack)
                        await self._listen(stack)
                        await self._in_step(sinks)
            except Denied as denied:
                self._tell_all("failed", [line for verdict in denied.verdicts for line in explain(verdict)])
                return _exits.DENIED
            except StepcredError as error:
                self._tell_all("failed", _exits.lines_of(error))
                return _exits.exit_code(error)
            except Unusable as problem:
                self._tell_all("failed", [str(problem)])
                return _exits.USAGE
            except OSError as error:
                self._tell_all("failed", [_failed(error)])
                return _exits.CANNOT_WRITE if error.filename else _exits.CONFIG
        return 0

    # --- before the step

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        ours = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup stays nohup
        for number in ours:
            loop.add_signal_handler(number, self._end, f"on {number.name}")
        try:
            yield
        finally:
            for number in ours:
                loop.remove_signal_handler(number)

    @contextmanager
    def _watching(self) -> Iterator[bool]:
        """Has it exited already?"""
        if self._plan.watch is None:
            yield False
            return
        try:
            watched = Watched(self._plan.watch)
        except OSError as error:  # of a thread, or where a sandbox has no pidfd_open
            raise Unusable(f"--watch {self._plan.watch}: cannot watch it: {error.strerror}") from None
        if not watched.gone:
            watched.call(lambda: self._end(f"process {watched.pid} has exited"))
        try:
            yield watched.gone
        finally:
            watched.close()

    def _end(self, why: str) -> None:
        if not self._stop.is_set():
            self._tell("ending", f"{why}: taking the credentials back")
            self._stop.set()

    def _files(self, stack: AsyncExitStack) -> Sinks:
        plan = self._plan
        sinks = Sinks(plan.files, plan.templates, plan.private)
        stack.callback(sinks.remove)
        if plan.token_file is not None:
            file = plan.private(plan.token_file)
            self._token = secrets.token_urlsafe(TOKEN_BYTES)
            stack.callback(_removed, file)
            file.write(
                self._token.encode()
            )  # no line break: SDKs send the file as it is, and one in a header is refused
        if plan.env_file is not None:
            file = plan.public(plan.env_file)
            file.check()
            file.remove()  # of an earlier sidecar: whoever waits for it, waits for us
            stack.callback(_removed, file)
        return sinks

    async def _listen(self, stack: AsyncExitStack) -> None:
        plan = self._plan
        if plan.listen is None and plan.ready_listen is None:
            return
        from stepcred.cli._sidecar import _http  # aiohttp costs half a second, and files need none

        if plan.ready_listen is not None:
            await stack.enter_async_context(_http.probes(plan.ready_listen, self._state))
        if plan.listen is not None:
            end = "POST /v1/end"
            served = _http.credentials(plan.listen, self._state, token=self._token, end=lambda: self._end(end))
            self._uri = (await stack.enter_async_context(served)).url

    # --- the step

    async def _in_step(self, sinks: Sinks) -> None:
        """Until stopped. Raises what kept the step from starting, or from being ended."""
        held = Held(self._plan.wanted)
        if not await self._unless_stopped(held.open()):
            return
        try:
            async with AsyncExitStack() as stack:
                stack.push_async_exit(held.close)
                stack.callback(self._withdraw, sinks)
                if await self._unless_stopped(self._first(held, sinks)):
                    async with self._following(held, sinks):
                        if await self._unless_stopped(held.step.over()):
                            self._is_over(held, sinks)
                            await self._stop.wait()  # there is nothing else to do than to say why
        finally:
            if held.step.outcomes or held.step.ended_by_broker:
                self._tell("ended", held.step.summary())

    async def _unless_stopped(self, work: Coroutine[Any, Any, object]) -> bool:
        """Was it done? Raises what it raises."""
        doing, stop = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        await asyncio.wait({doing, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        doing.cancel()  # nothing, when it is done
        with contextlib.suppress(asyncio.CancelledError):
            await doing
        return not doing.cancelled()

    def _withdraw(self, sinks: Sinks) -> None:
        self._state.over = self._state.over or ENDING
        self._state.held = None
        sinks.remove()

    async def _first(self, held: Held, sinks: Sinks) -> None:
        """Everything once: what cannot be had or written, is known before the program starts."""
        plan = self._plan
        await held.approved(self._waiting)
        for scope in plan.wanted.scopes:
            credential = await held.credential(scope)
            if scope in plan.aws:
                _aws.session_of(credential)
            sinks.put(credential)
        self._state.held = held
        self._state.ready = True
        where = f"serving on {self._uri}" if self._uri else "the files are there"
        if plan.env_file is not None and plan.token_file is not None:
            session = _aws.session_of(await held.credential(plan.aws[0]))
            uri = f"{self._uri}/v1/aws/{plan.aws[0]}"
            plan.public(plan.env_file).write(environment_file(session, uri=uri, token_file=plan.token_file))
        self._tell("ready", f"{', '.join(plan.wanted.scopes)}: {where}")

    @asynccontextmanager
    async def _following(self, held: Held, sinks: Sinks) -> AsyncIterator[None]:
        followers = [asyncio.create_task(self._follow(held, sinks, scope)) for scope in sinks.scopes]
        try:
            yield
        finally:
            for follower in followers:
                follower.cancel()
            await asyncio.gather(*followers, return_exceptions=True)

    async def _follow(self, held: Held, sinks: Sinks, scope: str) -> None:
        """Each successor into its files, for as long as there are any."""
        pause: float | None = 0.0
        while held.step.alive and pause is not None:
            await asyncio.sleep(pause)
            pause = await self._followed(held, sinks, scope)

    async def _followed(self, held: Held, sinks: Sinks, scope: str) -> float | None:
        """Until it can be kept no longer; seconds until it may be had again, None for never."""
        try:
            await held.credential(scope)
            async for credential in held.step.credentials(scope):
                sinks.put(credential)
                self._state.broken.pop(scope, None)
        except StepcredError as error:
            if held.step.alive:
                self._lost(sinks, scope, told(error))
                if not isinstance(error, Refused) or not (is_final(error) or error.reason == LOST):
                    return getattr(error, "retry_after", None) or ASK_AGAIN
        except (Unusable, OSError) as problem:
            self._lost(sinks, scope, Told(status=0, code="NOT_WRITTEN", message=str(problem)))
            if isinstance(problem, OSError):
                return ASK_AGAIN  # a full tmpfs may be emptied, and until its end the credential is the kept one
        return None

    def _lost(self, sinks: Sinks, scope: str, why: Told) -> None:
        known = self._state.broken.get(scope)
        self._state.broken[scope] = why
        with contextlib.suppress(OSError, Unusable):
            sinks.drop(scope)
        if known is None or known.code != why.code:
            self._tell("lost", f"{scope}: its files are removed: {why.message}", level="error")

    def _is_over(self, held: Held, sinks: Sinks) -> None:
        why = held.step.end_told
        self._state.over = told(why) if why is not None else ENDING
        sinks.remove()
        text = f"the broker has ended the step: {self._state.over.message}"
        self._tell("step_ended", f"{text}; readers are told so until we are ended too", level="error")

    def _waiting(self, needed: NeedsApproval) -> None:
        self._tell("waiting", f"{needed.scope}: waiting for operators: {needed}")

    def _tell_all(self, event: str, lines: list[str]) -> None:
        self._tell(event, "\n".join(lines), level="error")


def _failed(error: OSError) -> str:
    if error.filename:
        return f"{error.filename}: {error.strerror}"
    taken = "; another sidecar? choose another port, 0 for any that is free" if error.errno == errno.EADDRINUSE else ""
    return f"cannot listen: {error.strerror}{taken}"


def _removed(file: PrivateFile) -> None:
    with contextlib.suppress(OSError, Unusable):
        file.remove()
