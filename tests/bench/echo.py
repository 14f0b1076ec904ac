"""The floor: a bare grpc.aio server that answers IssueCredential with an empty message.

Same generated service, same event loop, same TLS settings and limits as the daemon; nothing behind it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop

from broker.clock import SystemClock
from broker.config import Config, load
from broker.identity import verify
from broker.rpc import server as rpc
from broker.rpc.limits import backlog, options
from broker.rpc.methods import BROKER
from broker.wiring.listeners import front_door
from stepcred.v1 import broker_pb2


async def issue_credential(_request: object, _context: object) -> broker_pb2.IssueCredentialResponse:
    return broker_pb2.IssueCredentialResponse()


def handler() -> grpc.GenericRpcHandler:
    """The service with the one method that is measured."""
    method: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
        issue_credential,
        request_deserializer=broker_pb2.IssueCredentialRequest.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    return grpc.method_handlers_generic_handler(BROKER.described.full_name, {"IssueCredential": method})


async def serve(config: Config) -> None:
    """Until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(options=options(config.limits), maximum_concurrent_rpcs=backlog(config.limits))
    server.add_generic_rpc_handlers((handler(),))
    server.add_secure_port(str(config.listen.grpc), rpc.credentials(front_door(config, SystemClock()), verify.agents))
    await server.start()
    await stop.wait()
    await server.stop(1)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(load(Path(sys.argv[1]), os.environ)))
