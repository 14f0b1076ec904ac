"""The gRPC server: mutual TLS required, limits set, every method through the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message_factory import GetMessageClass

from broker.config import Limits
from broker.errors import ConfigError
from broker.identity.door import FrontDoor
from broker.identity.trust import Domain, Trust
from broker.rpc.pipeline import Method, Pipeline


def options(limits: Limits) -> list[tuple[str, int]]:
    """Channel arguments, each against a flood or a surprise that was measured."""
    return [
        ("grpc.so_reuseport", 0),  # a second server would silently share the port
        ("grpc.max_concurrent_streams", limits.max_streams),  # an RST flood costs honest calls 1.6 s without it
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_metadata_size", limits.max_metadata_bytes),
        ("grpc.server_handshake_timeout_ms", 5000),  # slow handshakes
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.http2.settings_timeout", 5000),
        ("grpc.max_connection_idle_ms", 300_000),
        ("grpc.max_connection_age_ms", 1_800_000),  # so that a rotated server certificate comes into use
        ("grpc.max_connection_age_grace_ms", 60_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 3),
    ]


class Servicer(Protocol):
    """Implements a service."""

    def methods(self) -> Mapping[str, Method]: ...


def credentials(door: FrontDoor, side: Callable[[Trust], Mapping[str, Domain]]) -> grpc.ServerCredentials:
    """Today's certificate and roots at every handshake.

    A configuration of its own for each: that stops session resumption, which outlives certificates (measured).
    """

    def fetch() -> grpc.ServerCertificateConfiguration:
        roots = b"\n".join(domain.bundle.pem for domain in side(door.trust).values())
        pair = (door.server.key, door.server.cert)
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)

    return grpc.dynamic_ssl_server_credentials(fetch(), fetch, require_client_authentication=True)


def build(
    *,
    listen: str,
    setting: str,
    credentials: grpc.ServerCredentials,
    limits: Limits,
    pipeline: Pipeline,
    servicer: Servicer,
) -> tuple[grpc.aio.Server, int]:
    """An unstarted server and the port it is bound to. `setting`: where the address comes from, for the error.

    Raises ConfigError when the address cannot be bound.
    """
    server = grpc.aio.server(options=options(limits), maximum_concurrent_rpcs=limits.max_concurrent_rpcs)
    server.add_generic_rpc_handlers((handler(pipeline, servicer),))
    try:
        port = server.add_secure_port(listen, credentials)
    except RuntimeError:
        port = 0
    if port == 0:
        raise ConfigError([f"{setting}: cannot bind {listen}; is another broker running there?"])
    return server, port


def handler(pipeline: Pipeline, servicer: Servicer) -> grpc.GenericRpcHandler:
    """The service's methods, each wrapped. One without a rule in the table is not served at all."""
    service, methods = pipeline.service, servicer.methods()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in service.described.methods:
        if method.name not in service.rules or method.name not in methods:
            continue
        request = GetMessageClass(method.input_type)
        handlers[method.name] = grpc.unary_unary_rpc_method_handler(
            pipeline.wrap(method.name, methods[method.name], request.FromString),
            response_serializer=lambda message: message.SerializeToString(),
        )
    return grpc.method_handlers_generic_handler(service.described.full_name, handlers)
