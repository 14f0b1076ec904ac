"""What every call passes before it reaches the servicer: one readable list. The table of methods is in `methods`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message

from broker.clock import Clock
from broker.errors import BrokerError, Reason, StoreError
from broker.guard.limiter import RequestLimiter
from broker.identity import Authenticator
from broker.leases.refusals import Refusals
from broker.log import get_logger
from broker.metrics import Metrics
from broker.model import Agent
from broker.rpc.admission import Admit, as_agent
from broker.rpc.loop import interruptible, left_alone
from broker.rpc.methods import BROKER, Service
from broker.rpc.places import Places
from broker.rpc.status import code_of, trailers_of

log = get_logger(__name__)

STORE_RETRY = timedelta(seconds=5)
CALL_AGAIN = timedelta(seconds=1)


T = TypeVar("T")
Method: TypeAlias = Callable[[Any, Any, Any], Awaitable[Message]]
Stream: TypeAlias = Callable[[Any, Any, Any], AsyncGenerator[Message, None]]
Parse: TypeAlias = Callable[[bytes], Message]
Serve: TypeAlias = Callable[[Any], Awaitable[T]]  # from who is let in to what is answered

LOOK_AGAIN = 3.0  # seconds: how long a stream goes on at most for one who is let in no more


class Pipeline:
    """Wraps every method of a service."""

    def __init__(
        self,
        service: Service = BROKER,
        *,
        authenticator: Authenticator,
        limiter: RequestLimiter,
        refusals: Refusals,
        metrics: Metrics,
        clock: Clock,
        places: Places,
        max_metadata: int,
        admit: Admit = as_agent,
    ) -> None:
        self.service = service
        self._authenticator = authenticator
        self._limiter = limiter
        self._refusals = refusals
        self._metrics = metrics
        self._clock = clock
        self._places = places
        self._max_metadata = max_metadata
        self._admit = admit

    def wrap(self, name: str, method: Method, parse: Parse) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """The handler that grpc calls: 1. measure, 2. turn errors into statuses, 3. check, 4. parse, 5. serve.

        From bytes to bytes. Parsed here, after the checks: a stranger's bytes are not looked at, and what grpc says of
        bytes that it cannot parse, or of a message that it cannot write, names Python's classes (measured).
        """

        async def handler(raw: bytes, context: Any) -> bytes:
            return await self._measured(
                name, context, lambda caller: self._answer(name, method(parse(raw), caller, context), context)
            )

        return handler

    def wrap_stream(self, name: str, method: Stream, parse: Parse) -> Callable[[bytes, Any], Awaitable[None]]:
        """The same for a method that answers with many messages."""

        async def handler(raw: bytes, context: Any) -> None:
            await self._measured(
                name,
                context,
                lambda caller: self._pour(name, method(parse(raw), caller, context), context),
                streams=True,
            )

        return handler

    async def _measured(self, name: str, context: Any, serve: Serve[T], *, streams: bool = False) -> T:
        start = self._clock.monotonic()
        code = "OK"
        try:
            with interruptible():
                return await self._checked(name, context, serve, streams=streams)
        except _Answered as answered:
            code = answered.code.name
            await context.abort(answered.code, answered.message, answered.trailers)
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception:
            # While refusing: nothing is left to refuse it with, and still its text must not reach the client.
            log.exception("a refusal could not be answered", method=name)
            answer = _Answered(BrokerError(Reason.INTERNAL, "internal error"))  # journalled under no reference
            code = answer.code.name
            await context.abort(answer.code, answer.message, answer.trailers)
            raise
        finally:
            took = timedelta(seconds=self._clock.monotonic() - start)
            self._metrics.rpc(name, code, took)

    async def _checked(self, name: str, context: Any, serve: Serve[T], *, streams: bool) -> T:
        """Every check, in this order: 1. metadata, 2. certificate, 3. rate, 4. role, 5. place."""
        agent: Agent | None = None
        try:
            check_metadata(context, self._max_metadata)
            agent = authenticate(self._authenticator, context)
            self._check_rate(name, agent)
            caller = self._admit(agent, self.service.rules[name])
            with self._place(name, agent, streams=streams):
                return await serve(caller)
        except BrokerError as error:
            refusal = error
        except DecodeError:
            refusal = BrokerError(Reason.INVALID_ARGUMENT, "the bytes are no request of this method")
        except StoreError:
            log.exception("store failed", method=name)
            refusal = BrokerError(
                Reason.STORE_UNAVAILABLE,
                "the broker's database cannot write; nothing was delivered, and an end may not be on record: "
                "ask again, else the step ends when it is silent",
                retry_after=STORE_RETRY,
            )
        except Exception:
            # The text of an unhandled exception would reach the client (measured).
            log.exception("unexpected failure", method=name)
            refusal = BrokerError(Reason.INTERNAL, "internal error; give the reference id to the operator")
        if agent is not None:
            await self._refusals.record(agent, name, refusal, kind=self.service.refusal)
        else:
            self._metrics.refusal(refusal.reason)  # before identity there is only a metric: no disk for strangers
        raise _Answered(refusal)

    async def _answer(self, name: str, work: Awaitable[Message], context: Any) -> bytes:
        """A mint takes a while: who has been denied or has expired meanwhile is not given what was made for it.

        Claimed by nobody, it is revoked.
        """
        answer = await work
        if self.service.rules[name].delivers:
            self._look_again(name, context)
        return answer.SerializeToString()

    async def _pour(self, name: str, messages: AsyncGenerator[Message, None], context: Any) -> None:
        """A stream may live for days: who reads it is looked at before each message, and every few seconds besides.

        Whoever is let in no more reads nothing more, and is told why.
        """
        async with contextlib.aclosing(messages):
            while True:
                coming = asyncio.ensure_future(anext(messages, None))
                try:
                    ready = False
                    while not ready:
                        ready = await self._came(coming)
                        self._look_again(name, context)
                finally:
                    await _given_up(coming)
                message = coming.result()
                if message is None:
                    return
                raw = message.SerializeToString()
                with left_alone():
                    await context.write(raw)

    async def _came(self, coming: asyncio.Future[Any]) -> bool:
        """False: not yet, and it is time to look."""
        tick = asyncio.ensure_future(self._clock.sleep(LOOK_AGAIN))
        try:
            await asyncio.wait([coming, tick], return_when=asyncio.FIRST_COMPLETED)
        finally:
            tick.cancel()
        return coming.done()

    def _look_again(self, name: str, context: Any) -> None:
        """Certificate and role as they are now."""
        self._admit(authenticate(self._authenticator, context), self.service.rules[name])

    def _check_rate(self, name: str, agent: Agent) -> None:
        if not self.service.rules[name].asks:
            return
        wait = self._limiter.wait(agent.spiffe_id, self._clock.monotonic())
        if wait > 0:
            raise BrokerError(
                Reason.RATE_LIMITED, "too many requests by this agent", retry_after=timedelta(seconds=wait)
            )

    @contextlib.contextmanager
    def _place(self, name: str, agent: Agent, *, streams: bool) -> Iterator[None]:
        """One agent must not take every place: others' heartbeats need one."""
        asks = self.service.rules[name].asks
        with self._places.taken(agent.spiffe_id, asks=asks, streams=streams) as taken:
            if not taken:
                raise BrokerError(
                    Reason.RATE_LIMITED, "too many requests by this agent at once", retry_after=CALL_AGAIN
                )
            yield


async def _given_up(work: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more; it has ended when this returns, so that its generator can be closed."""
    if not work.done():
        work.cancel()
        await asyncio.wait([work])


class _Answered(Exception):
    """A refusal on its way out, converted outside of the except block that caught it."""

    def __init__(self, error: BrokerError) -> None:
        super().__init__(error.message)
        self.code = code_of(error)
        self.message = error.message
        self.trailers = trailers_of(error)


def check_metadata(context: Any, limit: int) -> None:
    """Bound, in bytes, what a caller may send beside its message. Raises INVALID_ARGUMENT.

    grpc's own limit applies only after the client acknowledges SETTINGS (measured).
    """
    size = sum(len(key) + len(value) for key, value in context.invocation_metadata() or ())
    if size > limit:
        raise BrokerError(Reason.INVALID_ARGUMENT, f"metadata is larger than {limit} bytes")


def authenticate(authenticator: Authenticator, context: Any) -> Agent:
    """Identity from the certificate of this very call, not of the connection."""
    auth = context.auth_context()

    def first(key: str) -> bytes:
        values = auth.get(key) or [b""]
        return values[0] if isinstance(values[0], bytes) else str(values[0]).encode()

    return authenticator.authenticate(
        first("x509_pem_cert"),
        chain=first("x509_pem_cert_chain"),
        tls_version=first("ssl_tls_version").decode("ascii", "replace"),
        peer=context.peer(),
    )
