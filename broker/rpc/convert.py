"""Domain values → protobuf messages. The only place where a secret leaves its `Secret`."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf import timestamp_pb2

from broker.errors import Reason
from broker.leases.beginning import ScopeAnswer
from broker.leases.committing import Delivered
from broker.leases.engine import Ended
from broker.leases.outcomes import Outcome
from broker.leases.successors import successor_from
from broker.model import (
    AwsSession,
    Credential,
    Evidence,
    KeyValue,
    Lease,
    LeaseState,
    Revocability,
    SshCertificate,
    Tier,
    UsernamePassword,
    VaultToken,
    X509Certificate,
)
from broker.policy.decision import Allowed
from broker.policy.within_reach import Reach, ReachableScope, ReachingGrant
from broker.rpc.status import duration
from broker.secret import Secret
from stepcred.v1 import broker_pb2, credential_pb2, lease_pb2

MAX_REACH = 262_144  # bytes of WhoAmI's reach: an agent asks for it with a few

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = 86_400  # seconds
TIERS = {tier: lease_pb2.Tier.Value(f"TIER_{tier.name}") for tier in Tier}
REVOCABILITIES = {one: lease_pb2.Revocability.Value(f"REVOCABILITY_{one.value}") for one in Revocability}
STATES = {state: lease_pb2.LeaseState.Value(f"LEASE_STATE_{state.value}") for state in LeaseState}
EVIDENCE = {evidence: lease_pb2.Evidence.Value(f"EVIDENCE_{evidence.value}") for evidence in Evidence}


def timestamp(at: datetime) -> timestamp_pb2.Timestamp:
    """A protobuf Timestamp of an aware datetime."""
    message = timestamp_pb2.Timestamp()
    _set(message, at)
    return message


def _set(message: timestamp_pb2.Timestamp, at: datetime) -> None:
    """What `FromDatetime` does, in a quarter of the time."""
    since = at - _EPOCH
    message.seconds = since.days * _DAY + since.seconds
    message.nanos = since.microseconds * 1000


def issued(delivered: Delivered) -> broker_pb2.IssueCredentialResponse:
    """The answer of IssueCredential, filled in place: protobuf copies a message that is put into another."""
    message = broker_pb2.IssueCredentialResponse()
    _fill_lease(message.lease, delivered.lease)
    fill_credential(message.credential, delivered.credential)
    return message


def lease_message(row: Lease) -> lease_pb2.Lease:
    """Without its credential."""
    message = lease_pb2.Lease()
    _fill_lease(message, row)
    return message


def _fill_lease(message: lease_pb2.Lease, row: Lease) -> None:
    """As its holder sees it, without its credential."""
    message.lease_id = row.id
    message.scope = row.scope
    message.tier = TIERS[row.tier]
    message.revocability = REVOCABILITIES[row.revocability]
    message.state = STATES[row.state]
    _set(message.issued_at, row.active_at or row.intent_at)
    _set(message.expires_at, row.expires_at)
    _set(message.successor_from, successor_from(row))


def fill_credential(message: credential_pb2.Credential, value: Credential) -> None:
    """Reveal, at the last moment."""
    match value:
        case VaultToken():
            message.vault_token.token = value.token.reveal()
            message.vault_token.address = value.address
            message.vault_token.namespace = value.namespace
        case UsernamePassword():
            message.username_password.username = value.username
            message.username_password.password = value.password.reveal()
            message.username_password.attributes.update(value.attributes)
        case AwsSession():
            session = message.aws_session
            session.access_key_id = value.access_key_id
            session.secret_access_key = value.secret_access_key.reveal()
            session.session_token = value.session_token.reveal()
            session.region = value.region
            session.endpoint_url = value.endpoint_url
            _set(session.session_expires_at, value.session_expires_at)
        case KeyValue():
            message.key_value.data.update({name: secret.reveal() for name, secret in value.data.items()})
            message.key_value.version = value.version
            message.key_value.version_id = value.version_id
        case X509Certificate():
            message.x509_certificate.certificate_pem = value.certificate_pem
            message.x509_certificate.chain_pem.extend(value.chain_pem)
            message.x509_certificate.private_key_pem = _or_empty(value.private_key_pem)
            message.x509_certificate.serial_number = value.serial_number
        case SshCertificate():
            message.ssh_certificate.signed_key = value.signed_key
            message.ssh_certificate.serial_number = value.serial_number


def _or_empty(secret: Secret | None) -> str:
    return "" if secret is None else secret.reveal()


def outcome(value: Outcome) -> lease_pb2.LeaseOutcome:
    """State, evidence and exposure of one lease."""
    message = lease_pb2.LeaseOutcome(
        lease_id=value.lease_id,
        scope=value.scope,
        state=STATES[value.state],
        revocability=REVOCABILITIES[value.revocability],
    )
    if value.evidence is not None:
        message.evidence = EVIDENCE[value.evidence]
    if value.time_to_dead is not None:
        message.time_to_dead.CopyFrom(duration(value.time_to_dead))
    if value.exposed_until is not None:
        message.exposed_until.CopyFrom(timestamp(value.exposed_until))
    if value.deny_written_at is not None:
        message.deny_written_at.CopyFrom(timestamp(value.deny_written_at))
    return message


def ended(value: Ended) -> broker_pb2.EndStepResponse:
    """The answer of EndStep."""
    return broker_pb2.EndStepResponse(leases=map(outcome, value.outcomes), all_proven=value.all_proven)


def _tell_approval(message: broker_pb2.ScopeVerdict, answer: ScopeAnswer, decision: Allowed) -> None:
    """Who has said yes so far. With enough of them the scope is as good as granted."""
    approval = answer.approval
    if decision.approvals and not answer.approved:
        message.verdict, message.reason = broker_pb2.VERDICT_NEEDS_APPROVAL, Reason.NEEDS_APPROVAL.value
    message.approvals_needed = decision.approvals
    if approval is not None:
        message.approval_id = approval.id
        message.approvals_given = answer.approvals_given
        message.approval_expires_at.CopyFrom(timestamp(approval.expires_at))


def verdict(answer: ScopeAnswer) -> broker_pb2.ScopeVerdict:
    """Rule and fix only where some grant gives the scope to this agent (DESIGN section 8)."""
    decision = answer.decision
    message = broker_pb2.ScopeVerdict(scope=answer.scope, reference_id=answer.reference_id)
    if isinstance(decision, Allowed):
        message.verdict = broker_pb2.VERDICT_GRANTED
        _tell_approval(message, answer, decision)
        message.rule = decision.rule.name
        message.position = decision.rule.position
        message.ttl.CopyFrom(duration(decision.ttl))
        message.tier = TIERS[decision.tier]
        message.revocability = REVOCABILITIES[decision.revocability]
        return message
    message.verdict = broker_pb2.VERDICT_REFUSED
    message.reason = decision.reason.value if decision.known else Reason.ACCESS_DENIED.value
    if decision.known:
        message.smallest_fix = decision.smallest_fix
        if decision.rule is not None:
            message.rule = decision.rule.name
            message.position = decision.rule.position
    return message


def reach(value: Reach) -> tuple[list[broker_pb2.ReachableScope], int]:
    """As much as there is room for, and how many scopes are left out."""
    told: list[broker_pb2.ReachableScope] = []
    room = MAX_REACH
    for scope in value.scopes:
        message = _reachable(scope)
        room -= message.ByteSize()
        if room < 0:
            break
        told.append(message)
    return told, value.left_out + len(value.scopes) - len(told)


def _reachable(value: ReachableScope) -> broker_pb2.ReachableScope:
    scope = value.scope
    return broker_pb2.ReachableScope(
        scope=scope.name,
        provider=scope.provider,
        tier=TIERS[scope.tier],
        revocability=REVOCABILITIES[scope.revocability],
        ttl=duration(scope.ttl),
        max_ttl=duration(scope.max_ttl),
        grants=map(_reaching, value.grants),
        grants_left_out=value.grants_left_out,
        refused_by=value.refused_by,
    )


def _reaching(value: ReachingGrant) -> broker_pb2.ReachingGrant:
    return broker_pb2.ReachingGrant(
        rule=value.grant.rule.name,
        position=value.grant.rule.position,
        workload=value.workload,
        workflows=value.workflows,
        workflows_left_out=value.workflows_left_out,
        approvals_needed=value.approvals,
        max_step=duration(value.grant.max_step),
        conditions=value.conditions,
    )
