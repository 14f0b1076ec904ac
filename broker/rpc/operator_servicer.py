"""The methods of BrokerOperator: what operators see. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import Message

from broker.clock import Clock
from broker.identity.bundle import Bundle
from broker.identity.crl import Crl
from broker.identity.door import FrontDoor
from broker.identity.trust import Domain
from broker.model import Agent
from broker.rpc.convert import timestamp
from broker.rpc.pipeline import Method
from stepcred.v1 import operator_pb2


class OperatorServicer:
    """One method per rpc; each gets an authenticated operator."""

    def __init__(self, door: FrontDoor, clock: Clock, *, environment: str) -> None:
        self._door = door
        self._clock = clock
        self._environment = environment

    def methods(self) -> Mapping[str, Method]:
        """Name in the service → implementation."""
        return {"GetOperator": self.get_operator, "GetFrontDoor": self.get_front_door}

    async def get_operator(self, _request: operator_pb2.GetOperatorRequest, operator: Agent, _context: Any) -> Message:
        return operator_pb2.GetOperatorResponse(
            spiffe_id=operator.spiffe_id,
            environment=self._environment,
            certificate_not_after=timestamp(operator.not_after),
            certificate_sha256=operator.cert_sha256,
            server_time=timestamp(self._clock.now()),
        )

    async def get_front_door(
        self, _request: operator_pb2.GetFrontDoorRequest, _operator: Agent, _context: Any
    ) -> Message:
        trust = self._door.trust
        return operator_pb2.GetFrontDoorResponse(
            generation=trust.generation,
            agents=[_domain(name, domain) for name, domain in trust.agents.items()],
            operators=[_domain(name, domain) for name, domain in trust.operators.items()],
            denied=len(trust.denied.entries),
            server_certificate_not_after=timestamp(self._door.server.not_after),
            remarks=self._door.remarks(self._clock.now()),
        )


def _domain(name: str, domain: Domain) -> operator_pb2.TrustDomain:
    return operator_pb2.TrustDomain(
        name=name, roots=_roots(domain.bundle), revocation_lists=map(_list, domain.crls.lists)
    )


def _roots(bundle: Bundle) -> Iterable[operator_pb2.TrustRoot]:
    for root, sha256 in zip(bundle.roots, bundle.fingerprints, strict=True):
        yield operator_pb2.TrustRoot(
            subject=root.subject.rfc4514_string(), sha256=sha256, not_after=timestamp(root.not_valid_after_utc)
        )


def _list(one: Crl) -> operator_pb2.RevocationList:
    return operator_pb2.RevocationList(
        issuer=one.issuer, number=str(one.number), entries=len(one.serials), next_update=timestamp(one.next_update)
    )
