"""One AWS session in the two forms that the AWS SDKs read. `until`: when they shall have asked again."""

from __future__ import annotations

import json
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


class Bodies:
    """`container` as bytes, made anew only where something of it is another one. For each scope the last."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[AwsSession, int | None, bytes]] = {}

    def container(self, session: AwsSession, until: datetime | None) -> bytes:
        second = int(until.timestamp()) if until else None
        known = self._made.get(session.lease.scope)
        if known is not None and known[0] is session and known[1] == second:
            return known[2]
        body = json.dumps(container(session, until)).encode()
        self._made[session.lease.scope] = session, second, body
        return body


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
