"""What is served, and by which rules. A method that is missing here is not served at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import ServiceDescriptor

from broker.journal.records import Kind
from broker.operators.model import Role
from stepcred.v1 import broker_pb2, operator_pb2


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodRule:
    """What the pipeline does for a method."""

    asks: bool = True  # counted against the agent's rate; the others give back
    delivers: bool = False  # a secret: the caller's certificate is looked at again when the answer is ready
    role: Role | None = None  # that an operator needs; None: no operator may
    anybody: bool = False  # with a good certificate, also when the operators file does not name it


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A service of proto/, and the rule of each of its methods."""

    described: ServiceDescriptor
    rules: Mapping[str, MethodRule]
    refusal: Kind = Kind.DENIED  # how its refusals are journalled


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

_LOOKS = MethodRule(role=Role.VIEWER)
_RESPONDS = MethodRule(role=Role.RESPONDER)

OPERATOR = Service(
    described=operator_pb2.DESCRIPTOR.services_by_name["BrokerOperator"],
    refusal=Kind.OPERATOR_DENIED,
    rules={
        "GetOperator": MethodRule(anybody=True),
        "GetFrontDoor": MethodRule(anybody=True),
        "ListSteps": _LOOKS,
        "ListLeases": _LOOKS,
        "ListGuardKeys": _LOOKS,
        "ListApprovals": _LOOKS,
        "ListFreezes": _LOOKS,
        "ListReviews": _LOOKS,
        "ListAlerts": _LOOKS,
        "GetScopeMap": _LOOKS,
        "GetHealth": _LOOKS,
        "Explain": _LOOKS,
        "GetTimeline": _LOOKS,
        "TailJournal": _LOOKS,
        "RevokeLeases": _RESPONDS,
        "Freeze": _RESPONDS,
        "Unfreeze": _RESPONDS,
        "ResetGuardKey": _RESPONDS,
        "SignReview": _RESPONDS,
        "DecideApproval": MethodRule(role=Role.APPROVER),
        "SealSecondFactor": MethodRule(role=Role.VIEWER, delivers=True),  # for oneself
    },
)
