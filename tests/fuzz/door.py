"""The broker's front door in this process: the real pipeline, servicer and engine; the network and the backend are fakes.

Whatever comes in, a response or a refusal with a status comes out. What the pipeline would have to call an internal
error is raised here instead.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Never
from unittest.mock import patch

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from broker.clock import Clock
from broker.config import Limits, Timings
from broker.errors import Reason
from broker.guard.limiter import RateLimit, RequestLimiter
from broker.identity import Authenticator
from broker.rpc import pipeline, server
from broker.rpc.methods import BROKER
from broker.rpc.pipeline import Pipeline
from broker.rpc.places import Places
from broker.rpc.servicer import Servicer
from broker.rpc.status import CODES
from tests.fakes.clock import FakeClock
from tests.fakes.launchers import SCHEDULER, launcher
from tests.fakes.world import LOAD, OTHER, World, world
from tests.support.certs import TestCA
from tests.support.doors import door as front_door

REQUESTS = {method: f"/{BROKER.described.full_name}/{method}" for method in BROKER.rules}
CALLERS = (LOAD, OTHER, SCHEDULER)
WAIT = 0.55  # seconds that a call has left: RevokeLease and EndStep wait for a twentieth
CALLS_OF_A_WORLD = 400  # then a new one: rows pile up
_STRANGERS = {
    reason.value for reason, code in CODES.items() if code is grpc.StatusCode.UNAUTHENTICATED
}  # metrics alone
_INTERNAL = {Reason.INTERNAL.value, Reason.STORE_UNAVAILABLE.value}


class Refused(Exception):
    """What grpc raises from `abort`."""


@dataclass(kw_only=True, slots=True)
class Call:
    """A `grpc.aio.ServicerContext`, as far as the pipeline asks."""

    pem: bytes
    refusal: tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]] | None = None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("user-agent", "fuzz"),)

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self.pem], "ssl_tls_version": [b"TLSv1.3"]}

    def peer(self) -> str:
        return "ipv4:10.1.2.3:53422"

    def time_remaining(self) -> float:
        return WAIT

    async def abort(self, code: grpc.StatusCode, message: str, trailers: Any) -> Never:
        self.refusal = code, message, trailers
        raise Refused


class _Loud:
    """The pipeline's log: it is told of an exception only when it would be an internal error."""

    def exception(self, *_: object, **__: object) -> Never:
        raise  # noqa: PLE0704 - called where the exception is handled


class Door:
    """Use `call`. Steps and leases stay from call to call, for a while."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._folder = folder
        self._loop = loop
        ca = TestCA(folder, "dev.local")
        self._pems = {who: ca.agent(who).cert.read_bytes() for who in CALLERS}
        self._roots = ca.root_path
        self._calls = 0
        self._open: AbstractAsyncContextManager[World] | None = None
        self.broker: World
        self._handlers: grpc.GenericRpcHandler
        self.renew()

    def renew(self) -> None:
        """A new broker that knows of nothing."""
        self.close()
        self._calls = 0
        clock = FakeClock(datetime.now(UTC))
        self._open = world(self._folder, clock=clock, launchers=(launcher(),))
        self.broker = self._loop.run_until_complete(self._open.__aenter__())
        self._handlers = server.handler(_pipeline(self._roots, clock, self.broker), _servicer(self.broker, clock))

    def close(self) -> None:
        if self._open is not None:
            self._loop.run_until_complete(self._open.__aexit__(None, None, None))
            self._open = None

    def call(self, method: str, raw: bytes, who: str = LOAD) -> Message | str:
        """The response, or the reason of the refusal."""
        self._calls += 1
        if self._calls > CALLS_OF_A_WORLD:
            self.renew()
        context = Call(pem=self._pems[who])
        rpc: Any = self._handlers.service(_Details(REQUESTS[method]))
        try:
            response: bytes = self._loop.run_until_complete(rpc.unary_unary(raw, context))
        except Refused:
            return _reason(context)
        assert context.refusal is None
        output = BROKER.described.methods_by_name[method].output_type
        return GetMessageClass(output).FromString(response)

    def nothing_is_forgotten(self) -> None:
        """I1: what is alive has a row that is not terminal. I6: the journal holds no secret."""
        rows = self._loop.run_until_complete(self.broker.leases())
        assert self.broker.backend.alive <= {row.id for row in rows if not row.state.terminal}


@dataclass(slots=True)
class _Details:
    """Of a call, before it is handled."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


def _pipeline(roots: Path, clock: Clock, broker: World) -> Pipeline:
    return Pipeline(
        authenticator=Authenticator(front_door(roots, "dev.local"), clock),
        limiter=RequestLimiter(RateLimit(per_second=1e9, burst=10**9)),
        refusals=broker.engine._refusals,
        metrics=broker.core.metrics,
        clock=clock,
        places=Places(room=Limits().room, most=Limits().max_agent_rpcs),
        max_metadata=Limits().max_metadata_bytes,
    )


def _servicer(broker: World, clock: Clock) -> Servicer:
    return Servicer(broker.engine, broker.policies, Timings(), clock, Limits())


def _reason(context: Call) -> str:
    """Everything that a refusal must have: a code, constant words, a reason, a reference."""
    assert context.refusal is not None, "refused without a status"
    code, message, trailers = context.refusal
    details: Any = status_pb2.Status.FromString(dict(trailers)["grpc-status-details-bin"])
    info: Any = error_details_pb2.ErrorInfo()
    assert details.details[0].Unpack(info)
    assert (details.code, details.message) == (code.value[0], message)
    assert message and message.isprintable() and len(message) < 500
    assert info.reason not in _INTERNAL, message
    assert info.metadata["reference_id"] or info.reason in _STRANGERS, "nothing to ask the operator about"
    json.dumps(dict(info.metadata))
    return str(info.reason)


@contextmanager
def door(folder: Path) -> Iterator[Door]:
    """A door, with a loop of its own."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    with patch.object(pipeline, "log", _Loud()):
        made = Door(folder, loop)
        try:
            yield made
        finally:
            made.close()
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
            asyncio.set_event_loop(None)
