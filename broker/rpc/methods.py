"""What is served, and by which rules. A method that is missing here is not served at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import ServiceDescriptor

from stepcred.v1 import broker_pb2, operator_pb2


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodRule:
    """What the pipeline does for a method."""

    asks: bool = True  # counted against the agent's rate; the others give back
    delivers: bool = False  # a secret: the caller's certificate is looked at again when the answer is ready


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A service of proto/, and the rule of each of its methods."""

    described: ServiceDescriptor
    rules: Mapping[str, MethodRule]


BROKER = Service(
    described=broker_pb2.DESCRIPTOR.services_by_name["CredentialBroker"],
    rules={
        "BeginStep": MethodRule(),
        "IssueCredential": MethodRule(delivers=True),
        "Heartbeat": MethodRule(asks=False),  # a refused heartbeat would end an honest step
        "RevokeLease": MethodRule(asks=False),  # giving back is always allowed
        "EndStep": MethodRule(asks=False),
        "WhoAmI": MethodRule(),
        "CheckAccess": MethodRule(),
    },
)

OPERATOR = Service(
    described=operator_pb2.DESCRIPTOR.services_by_name["BrokerOperator"],
    rules={
        "GetOperator": MethodRule(),
        "GetFrontDoor": MethodRule(),
    },
)
