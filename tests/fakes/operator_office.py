"""A BrokerOperator that answers what a test puts into it, over real gRPC and mutual TLS."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf.message_factory import GetMessageClass

from stepcred.v1 import operator_pb2 as pb
from tests.fakes.broker_server import Refusal

SERVICE = pb.DESCRIPTOR.services_by_name["BrokerOperator"]


@dataclass
class FakeOffice:
    """Use in a `with`. `answers`: method → message, list of messages (each used once, the last again), or function."""

    tls: tuple[Path, Path, Path]  # certificate, key, client CA
    answers: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Or again, on the same port."""
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        handlers = {method.name: self._handler(method) for method in SERVICE.methods}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
        certificate, key, client_ca = (path.read_bytes() for path in self.tls)
        credentials = grpc.ssl_server_credentials([(key, certificate)], client_ca, require_client_auth=True)
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        self._server.start()

    def stop(self) -> None:
        self._server.stop(grace=0).wait(timeout=5)

    @property
    def addr(self) -> str:
        return f"127.0.0.1:{self.port}"

    def requests(self, method: str) -> list[Any]:
        return [request for called, request in self.calls if called == method]

    def _handler(self, method: Any) -> grpc.RpcMethodHandler[Any, Any]:
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        codec: dict[str, Any] = {
            "request_deserializer": request.FromString,
            "response_serializer": response.SerializeToString,
        }
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(
                lambda asked, context: self._stream(method.name, asked, context), **codec
            )
        return grpc.unary_unary_rpc_method_handler(
            lambda asked, context: self._answer(method.name, response, asked, context), **codec
        )

    def _answer(self, name: str, response: Any, asked: Any, context: grpc.ServicerContext) -> Any:
        self.calls.append((name, asked))
        found = self.answers.get(name, response())
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        if callable(found):
            found = found(asked)
        if isinstance(found, Refusal):
            refuse(context, found)
        return found

    def _stream(self, name: str, asked: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Of a list of lists one for each call; a Refusal in it ends that call."""
        self.calls.append((name, asked))
        parts = self.answers.get(name) or [[]]
        for part in parts.pop(0) if len(parts) > 1 else parts[0]:
            if isinstance(part, Refusal):
                refuse(context, part)
            yield part


def refuse(context: grpc.ServicerContext, refusal: Refusal) -> None:
    """As the broker does."""
    context.set_trailing_metadata(refusal.trailers())
    context.abort(refusal.code, refusal.message)
