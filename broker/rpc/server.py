"""The gRPC server: mutual TLS required, limits set, every method through the pipeline."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message_factory import GetMessageClass

from broker.config import Limits
from broker.errors import ConfigError
from broker.identity.door import FrontDoor
from broker.identity.trust import Domain, Trust
from broker.rpc.limits import backlog, options
from broker.rpc.pipeline import Method, Pipeline, Stream

Material: TypeAlias = tuple[bytes, bytes, bytes]  # PEM of key, certificate and roots


class Servicer(Protocol):
    """Implements a service."""

    def methods(self) -> Mapping[str, Method | Stream]: ...


def credentials(door: FrontDoor, side: Callable[[Trust], Mapping[str, Domain]]) -> grpc.ServerCredentials:
    """Key, certificate and roots are looked at on every handshake; what has not changed is not handed over again.

    gRPC frees its old TLS context when it gets a new one, also while another thread makes a handshaker from it
    (grpc/grpc#36693): with a new one on every handshake, 2,000 idle TCP connections of a stranger ended the daemon
    (measured). So sessions can be resumed, and what a certificate is worth is asked on every call.
    """
    given = [_material(door, side)]
    turn = threading.Lock()  # gRPC asks from several threads

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        with turn:
            if (found := _material(door, side)) != given[0]:
                given[0] = found
                return _configuration(found)
        return None

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given[0]),
        fetch,  # type: ignore[arg-type]  # None is "unchanged"
        require_client_authentication=True,
    )


def _material(door: FrontDoor, side: Callable[[Trust], Mapping[str, Domain]]) -> Material:
    roots = b"\n".join(domain.bundle.pem for domain in side(door.trust).values())
    pair = door.server  # once: another one may be taken into force in between
    return pair.key, pair.cert, roots


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    key, cert, roots = material
    return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=roots)


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
    server = grpc.aio.server(options=options(limits), maximum_concurrent_rpcs=backlog(limits))
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
        if method.name not in service.rules or method.name not in methods or method.client_streaming:
            continue
        ours: Any = methods[method.name]
        parse = GetMessageClass(method.input_type).FromString
        if method.server_streaming:
            poured = pipeline.wrap_stream(method.name, ours, parse)
            handlers[method.name] = grpc.unary_stream_rpc_method_handler(poured)
        else:
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(pipeline.wrap(method.name, ours, parse))
    return grpc.method_handlers_generic_handler(service.described.full_name, handlers)
