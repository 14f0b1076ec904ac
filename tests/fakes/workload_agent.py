"""A SPIFFE Workload API with the behaviour of SPIRE's agent, over a real unix socket; good and bad days alike."""

# ruff: noqa: N802 (the method has the name of the contract)
from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from spiffe._proto import workload_pb2 as pb
from spiffe._proto.workload_pb2_grpc import (
    SpiffeWorkloadAPIServicer,
    add_SpiffeWorkloadAPIServicer_to_server,
)

from broker.identity.authority import Authority
from tests.support.certs import Leaf, PrivateKey, TestCA

BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)  # as SPIRE issues


class Day(Enum):
    """What the agent does with whoever asks."""

    GOOD = "serves, and pushes what is new"
    DENYING = "no registration entry matches: PERMISSION_DENIED"
    HANGING = "accepts the call and says nothing"
    GONE_WRONG = "UNAVAILABLE, while the socket is there"


@dataclass(frozen=True, kw_only=True)
class Svid:
    """One identity with the bundle of its own trust domain."""

    chain: Sequence[x509.Certificate]
    key: PrivateKey = field(repr=False)
    roots: Sequence[x509.Certificate]
    hint: str = ""

    def message(self) -> pb.X509SVID:
        return pb.X509SVID(
            spiffe_id=self.chain[0]
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value.get_values_for_type(x509.UniformResourceIdentifier)[0],
            x509_svid=_der(self.chain),
            x509_svid_key=self.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            bundle=_der(self.roots),
            hint=self.hint,
        )


def svid(
    ca: TestCA,
    spiffe_id: str,
    *,
    hosts: Sequence[str] = (),
    issuer: Authority | None = None,
    roots: Sequence[x509.Certificate] | None = None,
    **overrides: Any,
) -> Svid:
    """As SPIRE issues it: for both sides of TLS, under `issuer` or the domain's root; `overrides` are of `Leaf`."""
    names = [_host(name) for name in hosts]
    given = {"uris": (spiffe_id,), "other_names": names, "eku": BOTH, "common_name": "", **overrides}
    leaf, key = Leaf(**given).build(issuer or ca.root)
    chain = [leaf] if issuer is None else [leaf, issuer.certificate]
    return Svid(chain=chain, key=key, roots=[ca.root.certificate] if roots is None else roots)


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def response(*svids: Svid, federated: Mapping[str, Sequence[x509.Certificate]] | None = None) -> pb.X509SVIDResponse:
    """`federated`: trust domain → its roots."""
    bundles = {f"spiffe://{domain}": _der(roots) for domain, roots in (federated or {}).items()}
    return pb.X509SVIDResponse(svids=[one.message() for one in svids], federated_bundles=bundles)


class FakeAgent(SpiffeWorkloadAPIServicer):
    """Use in a `with`. `push(response(...))` is what every stream gets at once, and each new one first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.day = Day.GOOD
        self.streams = 0  # that have got something, since the beginning
        self.without_header = 0  # calls that a real agent refuses
        self._response = pb.X509SVIDResponse()
        self._edition = 0
        self._changed = threading.Condition()

    @property
    def address(self) -> str:
        return f"unix://{self.path}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Also again after `stop`, with all that was pushed."""
        self._stopping = False
        self._server = grpc.server(ThreadPoolExecutor(16))
        add_SpiffeWorkloadAPIServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        assert self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()

    def stop(self) -> None:
        """The process ends: streams break and the socket is gone."""
        self._stopping = True
        with self._changed:
            self._changed.notify_all()
        self._server.stop(None).wait()
        with suppress(FileNotFoundError):
            self.path.unlink()

    def push(self, message: pb.X509SVIDResponse) -> None:
        with self._changed:
            self._response = message
            self._edition += 1
            self._changed.notify_all()

    def turn(self, day: Day) -> None:
        """From now on, for streams that are open too."""
        with self._changed:
            self.day = day
            self._changed.notify_all()

    def wait_for_streams(self, count: int, timeout: float = 10.0) -> bool:
        """Until so many have been opened since the beginning."""
        with self._changed:
            return self._changed.wait_for(lambda: self.streams >= count, timeout)

    def FetchX509SVID(
        self, request: pb.X509SVIDRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.X509SVIDResponse]:
        if ("workload.spiffe.io", "true") not in [tuple(pair) for pair in context.invocation_metadata()]:
            self.without_header += 1
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        sent = 0
        context.add_callback(self._wake)
        first = True
        while context.is_active() and not self._stopping:
            with self._changed:
                while not self._due(sent) and not self._stopping and context.is_active():
                    self._changed.wait()
                day, message, edition = self.day, self._response, self._edition
            if self._stopping or day is Day.GONE_WRONG:
                context.abort(grpc.StatusCode.UNAVAILABLE, "agent is shutting down")
            if day is Day.DENYING:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
            if day is Day.GOOD and edition > sent:
                sent = edition
                yield message
            if first:  # counted when it has got what there was
                first = False
                with self._changed:
                    self.streams += 1
                    self._changed.notify_all()

    def _due(self, sent: int) -> bool:
        return self.day in (Day.DENYING, Day.GONE_WRONG) or (self.day is Day.GOOD and self._edition > sent)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _der(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(one.public_bytes(Encoding.DER) for one in certificates)
