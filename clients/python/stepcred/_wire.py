"""From the messages of stepcred.v1 to our values. The only reader of their fields."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from stepcred import _credentials as credentials
from stepcred import _models as models
from stepcred._errors import UnexpectedAnswer
from stepcred.v1 import broker_pb2, credential_pb2, lease_pb2

E = TypeVar("E", bound=Enum)


def duration(value: timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(value)
    return message


def _word(kind: type[E], number: int, names: Any, prefix: str) -> E:
    """An enum's value without its prefix; numbers of a newer broker are UNSPECIFIED."""
    known: dict[int, E] = _words(kind, names, prefix)
    return known.get(number, known[0])


@cache
def _words(kind: type[Enum], names: Any, prefix: str) -> dict[int, Any]:
    ours = kind.__members__
    return {value: ours.get(name.removeprefix(prefix), kind["UNSPECIFIED"]) for name, value in names.items()}


def _tier(number: int) -> models.Tier:
    return _word(models.Tier, number, lease_pb2.Tier, "TIER_")


def _revocability(number: int) -> models.Revocability:
    return _word(models.Revocability, number, lease_pb2.Revocability, "REVOCABILITY_")


def _state(number: int) -> models.LeaseState:
    return _word(models.LeaseState, number, lease_pb2.LeaseState, "LEASE_STATE_")


def time_of(message: Any, name: str) -> datetime | None:
    """A Timestamp field, or None when it is not set."""
    value: Timestamp = getattr(message, name)
    return value.ToDatetime(tzinfo=UTC) if message.HasField(name) else None


def span_of(message: Any, name: str) -> timedelta | None:
    """A Duration field, or None when it is not set."""
    value: Duration = getattr(message, name)
    return value.ToTimedelta() if message.HasField(name) else None


def lease(message: lease_pb2.Lease) -> models.Lease:
    return models.Lease(
        lease_id=message.lease_id,
        scope=message.scope,
        tier=_tier(message.tier),
        revocability=_revocability(message.revocability),
        state=_state(message.state),
        issued_at=time_of(message, "issued_at"),
        expires_at=time_of(message, "expires_at"),
        successor_from=time_of(message, "successor_from"),
    )


def outcome(message: lease_pb2.LeaseOutcome) -> models.LeaseOutcome:
    return models.LeaseOutcome(
        lease_id=message.lease_id,
        scope=message.scope,
        state=_state(message.state),
        revocability=_revocability(message.revocability),
        evidence=_word(models.Evidence, message.evidence, lease_pb2.Evidence, "EVIDENCE_"),
        time_to_dead=span_of(message, "time_to_dead"),
        exposed_until=time_of(message, "exposed_until"),
        deny_written_at=time_of(message, "deny_written_at"),
    )


def scope_verdict(message: broker_pb2.ScopeVerdict) -> models.ScopeVerdict:
    return models.ScopeVerdict(
        scope=message.scope,
        access=_word(models.Access, message.verdict, broker_pb2.Verdict, "VERDICT_"),
        reason=message.reason,
        rule=message.rule,
        position=message.position,
        smallest_fix=message.smallest_fix,
        ttl=span_of(message, "ttl"),
        tier=_tier(message.tier),
        revocability=_revocability(message.revocability),
        reference_id=message.reference_id,
        approval_id=message.approval_id,
        approvals_needed=message.approvals_needed,
        approvals_given=message.approvals_given,
        approval_expires_at=time_of(message, "approval_expires_at"),
        policy=_policy(message.policy),
    )


def _policy(text: str) -> Mapping[str, Any] | None:
    if not text:
        return None
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise UnexpectedAnswer("the broker sent a policy that is not a JSON object")
    return MappingProxyType(told)


def launched(message: broker_pb2.BeginStepResponse) -> models.Launched:
    return models.Launched(
        handle=message.step_handle,
        attempt=message.attempt,
        deadline=time_of(message, "deadline"),
        start_within=span_of(message, "start_within"),
        verdicts=tuple(scope_verdict(verdict) for verdict in message.scopes),
    )


def identity(message: broker_pb2.WhoAmIResponse) -> models.Identity:
    return models.Identity(
        spiffe_id=message.spiffe_id,
        environment=message.environment,
        workloads=MappingProxyType({match.workload: dict(match.captures) for match in message.workloads}),
        scopes=tuple(message.scopes),
        certificate_not_after=time_of(message, "certificate_not_after"),
        certificate_sha256=message.certificate_sha256,
        server_time=time_of(message, "server_time"),
        reach=tuple(map(_reachable, message.reach)),
        reach_left_out=message.reach_left_out,
    )


def _reachable(message: broker_pb2.ReachableScope) -> models.ReachableScope:
    return models.ReachableScope(
        scope=message.scope,
        provider=message.provider,
        tier=_tier(message.tier),
        revocability=_revocability(message.revocability),
        ttl=span_of(message, "ttl"),
        max_ttl=span_of(message, "max_ttl"),
        grants=tuple(map(_reaching, message.grants)),
        grants_left_out=message.grants_left_out,
        refused_by=tuple(message.refused_by),
    )


def _reaching(message: broker_pb2.ReachingGrant) -> models.ReachingGrant:
    return models.ReachingGrant(
        rule=message.rule,
        position=message.position,
        workload=message.workload,
        workflows=tuple(message.workflows),
        workflows_left_out=message.workflows_left_out,
        approvals_needed=message.approvals_needed,
        max_step=span_of(message, "max_step"),
        conditions=tuple(message.conditions),
    )


def credential(message: broker_pb2.IssueCredentialResponse) -> credentials.Credential:
    """Raises UnexpectedAnswer for a kind that only a newer client knows."""
    kind = message.credential.WhichOneof("kind")
    make = _KINDS.get(kind or "")
    if make is None:
        raise UnexpectedAnswer("the broker sent a kind of credential that this version of stepcred does not know")
    return make(lease(message.lease), getattr(message.credential, kind or ""))


def _vault_token(held: models.Lease, m: credential_pb2.VaultToken) -> credentials.Credential:
    return credentials.VaultToken(lease=held, token=m.token, address=m.address, namespace=m.namespace)


def _username_password(held: models.Lease, m: credential_pb2.UsernamePassword) -> credentials.Credential:
    attributes = MappingProxyType(dict(m.attributes))
    return credentials.UsernamePassword(lease=held, username=m.username, password=m.password, attributes=attributes)


def _aws_session(held: models.Lease, m: credential_pb2.AwsSession) -> credentials.Credential:
    return credentials.AwsSession(
        lease=held,
        access_key_id=m.access_key_id,
        secret_access_key=m.secret_access_key,
        session_token=m.session_token,
        region=m.region,
        endpoint_url=m.endpoint_url,
        session_expires_at=time_of(m, "session_expires_at"),
    )


def _x509(held: models.Lease, m: credential_pb2.X509Certificate) -> credentials.Credential:
    return credentials.X509Certificate(
        lease=held,
        certificate_pem=m.certificate_pem,
        chain_pem=tuple(m.chain_pem),
        private_key_pem=m.private_key_pem,
        serial_number=m.serial_number,
    )


def _ssh(held: models.Lease, m: credential_pb2.SshCertificate) -> credentials.Credential:
    return credentials.SshCertificate(lease=held, signed_key=m.signed_key, serial_number=m.serial_number)


def _jwt(held: models.Lease, m: credential_pb2.Jwt) -> credentials.Credential:
    return credentials.Jwt(lease=held, token=m.token, audience=m.audience)


def _key_value(held: models.Lease, m: credential_pb2.KeyValue) -> credentials.Credential:
    data = MappingProxyType(dict(m.data))
    return credentials.KeyValue(lease=held, data=data, version=m.version, version_id=m.version_id)


_KINDS: dict[str, Callable[[models.Lease, Any], credentials.Credential]] = {
    "vault_token": _vault_token,
    "username_password": _username_password,
    "aws_session": _aws_session,
    "x509_certificate": _x509,
    "ssh_certificate": _ssh,
    "jwt": _jwt,
    "key_value": _key_value,
}
