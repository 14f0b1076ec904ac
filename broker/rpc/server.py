"""The gRPC server: mutual TLS required, limits set, every method through the pipeline."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, TypeAlias

import grpc
import grpc.aio

from broker.config import Limits, Tls
from broker.errors import ConfigError, unreadable
from broker.identity import TrustStore
from broker.rpc.limits import backlog, options
from broker.rpc.pipeline import METHODS, SERVICE, Pipeline
from broker.rpc.servicer import Servicer
from stepcred.v1 import broker_pb2

Material: TypeAlias = tuple[bytes, bytes, bytes]  # PEM of key, certificate and roots


def credentials(tls: Tls, trust: TrustStore) -> grpc.ServerCredentials:
    """Key, certificate and roots are looked at on every handshake; what has not changed is not handed over again.

    gRPC frees its old TLS context when it gets a new one, also while another thread makes a handshaker from it
    (grpc/grpc#36693): with a new one on every handshake, 2,000 idle TCP connections of a stranger ended the daemon
    (measured). So sessions can be resumed, and what a certificate is worth is asked on every call.

    Raises ConfigError when the files cannot be used.
    """

    def read() -> Material:
        return tls.key_file.read_bytes(), tls.cert_file.read_bytes(), trust.pem

    try:
        given = [read()]
    except OSError as error:
        raise ConfigError([f"tls: {error.filename}: {unreadable(error)}"]) from None
    turn = threading.Lock()  # gRPC asks from several threads

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        with turn, contextlib.suppress(OSError):  # while a file is being replaced the last good pair stays (I7)
            if (found := read()) != given[0]:
                given[0] = found
                return _configuration(found)
        return None

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given[0]),
        fetch,  # type: ignore[arg-type]  # None is "unchanged"
        require_client_authentication=True,
    )


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    key, cert, roots = material
    return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=roots)


def build(
    *, listen: str, credentials: grpc.ServerCredentials, limits: Limits, pipeline: Pipeline, servicer: Servicer
) -> tuple[grpc.aio.Server, int]:
    """An unstarted server and the port it is bound to.

    Raises ConfigError when the address cannot be bound.
    """
    server = grpc.aio.server(options=options(limits), maximum_concurrent_rpcs=backlog(limits))
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
            pipeline.wrap(method.name, methods[method.name], request.FromString),
            response_serializer=lambda message: message.SerializeToString(),
        )
    return grpc.method_handlers_generic_handler(SERVICE, handlers)
