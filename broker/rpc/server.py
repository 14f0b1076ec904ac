"""The gRPC server: mutual TLS required, limits set, every method through the pipeline."""

from __future__ import annotations

import contextlib
from typing import Any

import grpc
import grpc.aio

from broker.config import Limits, Tls
from broker.errors import ConfigError, unreadable
from broker.identity import TrustStore
from broker.rpc.pipeline import METHODS, SERVICE, Pipeline
from broker.rpc.servicer import Servicer
from stepcred.v1 import broker_pb2


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


def credentials(tls: Tls, trust: TrustStore) -> grpc.ServerCredentials:
    """A fresh configuration on every handshake: that stops session resumption, which outlives certificates.

    Raises ConfigError when the files cannot be used.
    """

    def read() -> grpc.ServerCertificateConfiguration:
        pair = (tls.key_file.read_bytes(), tls.cert_file.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=trust.pem)

    try:
        last_good = [read()]
    except OSError as error:
        raise ConfigError([f"tls: {error.filename}: {unreadable(error)}"]) from None

    def fetch() -> grpc.ServerCertificateConfiguration:
        with contextlib.suppress(OSError):  # while a file is being replaced the last good pair stays (I7)
            last_good[0] = read()
        return last_good[0]

    return grpc.dynamic_ssl_server_credentials(last_good[0], fetch, require_client_authentication=True)


def build(
    *, listen: str, credentials: grpc.ServerCredentials, limits: Limits, pipeline: Pipeline, servicer: Servicer
) -> tuple[grpc.aio.Server, int]:
    """An unstarted server and the port it is bound to.

    Raises ConfigError when the address cannot be bound.
    """
    server = grpc.aio.server(options=options(limits), maximum_concurrent_rpcs=limits.max_concurrent_rpcs)
    server.add_generic_rpc_handlers((handler(pipeline, servicer),))
    try:
        port = server.add_secure_port(listen, credentials)
    except RuntimeError:
        port = 0
    if port == 0:
        raise ConfigError([f"listen.grpc: cannot bind {listen}; is another broker running there?"])
    return server, port


def handler(pipeline: Pipeline, servicer: Servicer) -> grpc.GenericRpcHandler:
    """The service's methods, each wrapped. One without a rule in the table is not served at all."""
    described = broker_pb2.DESCRIPTOR.services_by_name[SERVICE.rsplit(".", 1)[1]]
    methods = servicer.methods()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in described.methods:
        if method.name not in METHODS or method.name not in methods:
            continue
        request = getattr(broker_pb2, method.input_type.name)
        handlers[method.name] = grpc.unary_unary_rpc_method_handler(
            pipeline.wrap(method.name, methods[method.name], request.FromString)
        )
    return grpc.method_handlers_generic_handler(SERVICE, handlers)
