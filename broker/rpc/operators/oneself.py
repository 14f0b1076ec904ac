"""Who the caller is, what lets it in, and its second factor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import Message

from broker.identity.bundle import Bundle
from broker.identity.crl import Crl
from broker.identity.trust import Domain
from broker.model import Agent
from broker.operators.model import Caller, Role
from broker.rpc.convert import timestamp
from broker.rpc.operators.parts import Parts
from broker.rpc.pipeline import Method
from stepcred.v1 import operator_pb2 as pb


class Oneself:
    """The first two answer those, too, whom the operators file does not name."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def methods(self) -> Mapping[str, Method]:
        """Name in the service → implementation."""
        return {
            "GetOperator": self.get_operator,
            "GetFrontDoor": self.get_front_door,
            "SealSecondFactor": self.seal_second_factor,
        }

    async def get_operator(self, _request: pb.GetOperatorRequest, agent: Agent, _context: Any) -> Message:
        message = pb.GetOperatorResponse(
            spiffe_id=agent.spiffe_id,
            environment=self._parts.environment,
            certificate_not_after=timestamp(agent.not_after),
            certificate_sha256=agent.cert_sha256,
            server_time=timestamp(self._parts.core.clock.now()),
        )
        operator = self._parts.registry.of(agent.spiffe_id)
        if operator is not None:
            message.name = operator.name
            message.roles.extend(role.value for role in Role if operator.has(role))
            message.groups.extend(sorted(operator.groups))
            message.second_factor = operator.second_factor is not None
        return message

    async def get_front_door(self, _request: pb.GetFrontDoorRequest, _agent: Agent, _context: Any) -> Message:
        door = self._parts.door
        trust = door.trust
        return pb.GetFrontDoorResponse(
            generation=trust.generation,
            agents=[_domain(name, domain) for name, domain in trust.agents.items()],
            operators=[_domain(name, domain) for name, domain in trust.operators.items()],
            denied=len(trust.denied.entries),
            server_certificate_not_after=timestamp(door.server.not_after),
            remarks=door.remarks(self._parts.core.clock.now()),
        )

    async def seal_second_factor(self, _request: pb.SealSecondFactorRequest, caller: Caller, _context: Any) -> Message:
        made = await self._parts.desk.seal_second_factor(caller)
        return pb.SealSecondFactorResponse(uri=made.uri.reveal(), sealed=made.sealed, revision=made.revision)


def _domain(name: str, domain: Domain) -> pb.TrustDomain:
    return pb.TrustDomain(name=name, roots=_roots(domain.bundle), revocation_lists=map(_list, domain.crls.lists))


def _roots(bundle: Bundle) -> Iterable[pb.TrustRoot]:
    for root, sha256 in zip(bundle.roots, bundle.fingerprints, strict=True):
        yield pb.TrustRoot(
            subject=root.subject.rfc4514_string(), sha256=sha256, not_after=timestamp(root.not_valid_after_utc)
        )


def _list(one: Crl) -> pb.RevocationList:
    return pb.RevocationList(
        issuer=one.issuer, number=str(one.number), entries=len(one.serials), next_update=timestamp(one.next_update)
    )
