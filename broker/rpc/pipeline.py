"""What every call passes before it reaches the servicer: one readable list. The table of methods is in `methods`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeAlias, TypeVar

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
from broker.rpc.places import Places, Room
from broker.rpc.status import code_of, trailers_of

log = get_logger(__name__)

STORE_RETRY = timedelta(seconds=5)
CALL_AGAIN = timedelta(seconds=1)


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Method: TypeAlias = Callable[[Any, Any, Any], Awaitable[Message]]
Stream: TypeAlias = Callable[[Any, Any, Any], AsyncGenerator[Message, None]]
Parse: TypeAlias = Callable[[bytes], Message]
Shown: TypeAlias = tuple[
    bytes, bytes, str, str
]  # by a caller: certificate, chain, TLS version, and where it calls from

_OK = "OK"
LOOK_AGAIN = 3.0  # seconds: how long a stream goes on at most for one who is let in no more


class Serve(Protocol[T_co]):
    """From a request's bytes, and who is let in, to what is answered."""

    def __call__(self, raw: bytes, caller: Any, context: Any, shown: Shown, /) -> Awaitable[T_co]: ...


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

        async def serve(raw: bytes, caller: Any, context: Any, shown: Shown) -> bytes:
            answer = await method(parse(raw), caller, context)
            if self.service.rules[name].delivers:  # whoever was denied or has expired while it was minted gets nothing
                self._look_again(name, shown)
            return answer.SerializeToString()

        async def handler(raw: bytes, context: Any) -> bytes:
            return await self._measured(name, raw, context, serve)

        return handler

    def wrap_stream(self, name: str, method: Stream, parse: Parse) -> Callable[[bytes, Any], Awaitable[None]]:
        """The same for a method that answers with many messages."""

        async def serve(raw: bytes, caller: Any, context: Any, shown: Shown) -> None:
            await self._pour(name, method(parse(raw), caller, context), context, shown)

        async def handler(raw: bytes, context: Any) -> None:
            await self._measured(name, raw, context, serve, streams=True)

        return handler

    async def _measured(self, name: str, raw: bytes, context: Any, serve: Serve[T], *, streams: bool = False) -> T:
        start = self._clock.monotonic()
        code = _OK
        try:
            with interruptible():
                return await self._checked(name, raw, context, serve, streams=streams)
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
            self._metrics.rpc(name, code, self._clock.monotonic() - start)

    async def _checked(self, name: str, raw: bytes, context: Any, serve: Serve[T], *, streams: bool) -> T:
        """Every check, in this order: 1. metadata, 2. certificate, 3. rate, 4. role, 5. place."""
        agent: Agent | None = None
        try:
            rule = self.service.rules[name]
            check_metadata(context, self._max_metadata)
            shown = shown_by(context)
            agent = authenticate(self._authenticator, shown)
            if rule.asks:
                self._check_rate(agent)
            caller = self._admit(agent, rule)
            room = self._place(agent, self._places.of(asks=rule.asks, streams=streams))
            try:
                return await serve(raw, caller, context, shown)
            finally:
                room.give(agent.spiffe_id)
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

    async def _pour(self, name: str, messages: AsyncGenerator[Message, None], context: Any, shown: Shown) -> None:
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
                        self._look_again(name, shown)
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

    def _look_again(self, name: str, shown: Shown) -> None:
        """Certificate and role by today's trust and time. What was shown stays: TLS 1.3 knows no second handshake."""
        self._admit(authenticate(self._authenticator, shown), self.service.rules[name])

    @staticmethod
    def _place(agent: Agent, room: Room) -> Room:
        """Taken, to be given back. One agent must not take every place: others' heartbeats need one."""
        if not room.take(agent.spiffe_id):
            raise BrokerError(Reason.RATE_LIMITED, "too many requests by this agent at once", retry_after=CALL_AGAIN)
        return room

    def _check_rate(self, agent: Agent) -> None:
        wait = self._limiter.wait(agent.spiffe_id, self._clock.monotonic())
        if wait > 0:
            raise BrokerError(
                Reason.RATE_LIMITED, "too many requests by this agent", retry_after=timedelta(seconds=wait)
            )


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
    size = 0
    for key, value in context.invocation_metadata() or ():
        size += len(key) + len(value)
    if size > limit:
        raise BrokerError(Reason.INVALID_ARGUMENT, f"metadata is larger than {limit} bytes")


def shown_by(context: Any) -> Shown:
    """From this very call, not from what is remembered of a connection."""
    auth = context.auth_context()
    tls_version = _first(auth, "ssl_tls_version").decode("ascii", "replace")
    return _first(auth, "x509_pem_cert"), _first(auth, "x509_pem_cert_chain"), tls_version, context.peer()


def _first(auth: Mapping[str, Sequence[bytes]], key: str) -> bytes:
    values = auth.get(key)
    return values[0] if values else b""


def authenticate(authenticator: Authenticator, shown: Shown) -> Agent:
    """Who that is now."""
    pem, chain, tls_version, peer = shown
    return authenticator.authenticate(pem, chain=chain, tls_version=tls_version, peer=peer)
