"""What every call passes before it reaches the servicer: one readable list. The table of methods is in `methods`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any

from google.protobuf.message import DecodeError, Message

from broker.clock import Clock
from broker.errors import BrokerError, Reason, StoreError
from broker.guard.limiter import RequestLimiter
from broker.identity import Authenticator
from broker.leases.refusals import Refusals
from broker.log import get_logger
from broker.metrics import Metrics
from broker.model import Agent
from broker.rpc.loop import interruptible
from broker.rpc.methods import BROKER, Service
from broker.rpc.places import Places
from broker.rpc.status import code_of, trailers_of

log = get_logger(__name__)

STORE_RETRY = timedelta(seconds=5)
CALL_AGAIN = timedelta(seconds=1)


Method = Callable[[Any, Agent, Any], Awaitable[Message]]


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
    ) -> None:
        self.service = service
        self._authenticator = authenticator
        self._limiter = limiter
        self._refusals = refusals
        self._metrics = metrics
        self._clock = clock
        self._places = places
        self._max_metadata = max_metadata

    def wrap(
        self, name: str, method: Method, parse: Callable[[bytes], Message]
    ) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """The handler that grpc calls: 1. measure, 2. turn errors into statuses, 3. check, 4. parse, 5. serve.

        From bytes to bytes. Parsed here, after the checks: a stranger's bytes are not looked at, and what grpc says of
        bytes that it cannot parse, or of a message that it cannot write, names Python's classes (measured).
        """

        async def handler(raw: bytes, context: Any) -> bytes:
            start = self._clock.monotonic()
            code = "OK"
            try:
                with interruptible():
                    return await self._serve(name, method, parse, raw, context)
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

        return handler

    async def _serve(
        self, name: str, method: Method, parse: Callable[[bytes], Message], raw: bytes, context: Any
    ) -> bytes:
        agent: Agent | None = None
        try:
            check_metadata(context, self._max_metadata)
            agent = authenticate(self._authenticator, context)
            self._check_rate(name, agent)
            with self._place(name, agent):
                return await self._answer(name, method(parse(raw), agent, context), context)
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
            await self._refusals.record(agent, name, refusal)
        else:
            self._metrics.refusal(refusal.reason)  # before identity there is only a metric: no disk for strangers
        raise _Answered(refusal)

    async def _answer(self, name: str, work: Awaitable[Message], context: Any) -> bytes:
        """A mint takes a while: who has been denied or has expired meanwhile is not given what was made for it.

        Claimed by nobody, it is revoked.
        """
        answer = await work
        if self.service.rules[name].delivers:
            authenticate(self._authenticator, context)
        return answer.SerializeToString()

    def _check_rate(self, name: str, agent: Agent) -> None:
        if not self.service.rules[name].asks:
            return
        wait = self._limiter.wait(agent.spiffe_id, self._clock.monotonic())
        if wait > 0:
            raise BrokerError(
                Reason.RATE_LIMITED, "too many requests by this agent", retry_after=timedelta(seconds=wait)
            )

    @contextlib.contextmanager
    def _place(self, name: str, agent: Agent) -> Iterator[None]:
        """One agent must not take every place: others' heartbeats need one."""
        with self._places.taken(agent.spiffe_id, asks=self.service.rules[name].asks) as taken:
            if not taken:
                raise BrokerError(
                    Reason.RATE_LIMITED, "too many requests by this agent at once", retry_after=CALL_AGAIN
                )
            yield


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
