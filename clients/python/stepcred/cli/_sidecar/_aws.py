"""One AWS session in the two forms that the AWS SDKs read. `until`: when they shall have asked again."""

from __future__ import annotations

from datetime import UTC, datetime

from stepcred._credentials import AwsSession, Credential
from stepcred._outlets import Unusable


def session_of(credential: Credential) -> AwsSession:
    """Raises Unusable for any other kind."""
    if not isinstance(credential, AwsSession):
        raise Unusable(f"{credential.lease.scope}: a {type(credential).__name__} is no AWS session; use --file")
    return credential


def container(session: AwsSession, until: datetime | None) -> dict[str, str]:
    """As the container credentials endpoints of ECS and EKS answer."""
    return _keys(session, "Token") | _expiration(until)


def process(session: AwsSession, until: datetime | None) -> dict[str, str | int]:
    """As a `credential_process` prints. Without Expiration no SDK would ever ask again."""
    return {"Version": 1} | _keys(session, "SessionToken") | _expiration(until)


def _keys(session: AwsSession, token: str) -> dict[str, str]:
    return {
        "AccessKeyId": session.access_key_id,
        "SecretAccessKey": session.secret_access_key,
        token: session.session_token,
    }


def _expiration(until: datetime | None) -> dict[str, str]:
    return {"Expiration": f"{until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"} if until else {}
