"""The few calls the broker makes, typed, each with the token that makes it. Errors are the transport's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hvac.api.auth_methods import AppRole as AppRoleApi
from hvac.api.auth_methods import Kubernetes as KubernetesApi
from hvac.api.auth_methods import Token as TokenApi
from hvac.api.system_backend.lease import Lease as LeaseApi

from broker.providers.vault.settings import Cert
from broker.providers.vault.transport import Transport, VaultLost, VaultRefused
from broker.secret import Secret

NOT_FOUND = 404
# sys/health: a node that hands requests on to the active one. 472 serves nothing; 473, a performance standby of Vault
# Enterprise, answers from a state that may be old.
STANDBY = frozenset({429})
VERSION = re.compile(r"[0-9A-Za-z.+-]{1,40}", re.ASCII)
MAX_LIST_BYTES = 64 << 20  # of everybody's tokens: about two million


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenAnswer:
    """The `auth` part of an answer that gives a token. `life` is seconds, 0 = unbounded."""

    token: Secret
    accessor: str
    life: int
    renewable: bool
    orphan: bool
    kind: str
    policies: tuple[str, ...]
    request_id: str


class VaultClient:
    """Typed calls over hvac's API classes."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    # Any: hvac's stubs say what the stock adapter returns; ours returns a coroutine of the JSON object.
    def _token_api(self, token: Secret) -> Any:
        return TokenApi(self._transport.acting_as(token))

    def _lease_api(self, token: Secret) -> Any:
        return LeaseApi(self._transport.acting_as(token))

    def reread_roots(self) -> bytes:
        """What the server's certificate must come from, read again."""
        return self._transport.reread()

    async def cluster_id(self) -> str:
        """Of an unsealed server or its standby; asks without a token. A sealed one is VaultRefused (503)."""
        body = await self._transport.exchange("get", "v1/sys/health", namespaced=False, good=STANDBY)
        if not (cluster_id := body.get("cluster_id")):
            raise VaultLost("the answer names no cluster")
        return str(cluster_id)

    async def version(self) -> str:
        """As the server calls itself; "" when that is no version."""
        body = await self._transport.exchange("get", "v1/sys/health", namespaced=False, good=STANDBY)
        version = str(body.get("version", ""))
        return version if VERSION.fullmatch(version) else ""

    async def login_approle(self, mount: str, role_id: str, secret_id: Secret) -> TokenAnswer:
        api: Any = AppRoleApi(self._transport.acting_as(None))
        answer = await api.login(role_id, secret_id.reveal(), use_token=False, mount_point=mount)
        return _token_answer(answer)

    async def login_kubernetes(self, mount: str, role: str, jwt: Secret) -> TokenAnswer:
        api: Any = KubernetesApi(self._transport.acting_as(None))
        answer = await api.login(role, jwt.reveal(), use_token=False, mount_point=mount)
        return _token_answer(answer)

    async def login_cert(self, auth: Cert) -> TokenAnswer:
        """Over a connection of its own: only this one shows the certificate."""
        async with self._transport.showing(auth.cert_file, auth.key_file) as shown:
            body = {"name": auth.role} if auth.role else {}
            return _token_answer(await shown.exchange("put", f"v1/auth/{auth.mount}/login", body=body))

    async def renew_self(self, token: Secret) -> TokenAnswer:
        return _token_answer(await self._token_api(token).renew_self())

    async def lookup_self(self, token: Secret) -> dict[str, Any]:
        return _data(await self._token_api(token).lookup_self())

    async def create(
        self, asker: Secret, role: str, token: Secret | str | None, *, seconds: int, meta: Mapping[str, str]
    ) -> TokenAnswer:
        """A token with the given id, or one of the server's, through a role; the id travels in the body only."""
        life = f"{seconds}s"
        asked = {
            "meta": dict(meta),
            "no_parent": False,
            "no_default_policy": True,
            "renewable": False,
            "ttl": life,
            "explicit_max_ttl": life,
            "display_name": "stepcred",
            "num_uses": 0,
        }
        if token is not None:
            asked["id"] = token.reveal() if isinstance(token, Secret) else token
        return _token_answer(
            await self._transport.exchange("post", f"v1/auth/token/create/{role}", token=asker, body=asked)
        )

    async def token_role(self, asker: Secret, name: str) -> dict[str, Any]:
        """How a token role is configured."""
        return _data(await self._token_api(asker).read_role(name))

    async def policy(self, asker: Secret, name: str) -> str:
        """The text of an ACL policy."""
        answer = _data(await self._transport.exchange("get", f"v1/sys/policies/acl/{name}", token=asker))
        return str(answer.get("policy", ""))

    async def lookup(self, asker: Secret, token: Secret) -> dict[str, Any]:
        body = {"token": token.reveal()}
        return _data(await self._transport.exchange("post", "v1/auth/token/lookup", token=asker, body=body))

    async def revoke_self(self, token: Secret) -> None:
        await self._transport.exchange("post", "v1/auth/token/revoke-self", token=token)

    async def list_accessors(self, asker: Secret) -> list[str]:
        """Of every token alive in the namespace; needs an operator's rights."""
        body = await self._transport.exchange("list", "v1/auth/token/accessors", token=asker, max_bytes=MAX_LIST_BYTES)
        return [str(key) for key in _data(body).get("keys", [])]

    async def lookup_accessor(self, asker: Secret, accessor: str) -> dict[str, Any]:
        return _data(await self._token_api(asker).lookup_accessor(accessor))

    async def revoke_accessor(self, asker: Secret, accessor: str) -> None:
        """Harmless when it is dead already (measured)."""
        await self._token_api(asker).revoke_accessor(accessor)

    async def fetch(self, token: Secret, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Read, or with a body write. The whole answer; it may have made a lease."""
        return await self._transport.exchange("get" if body is None else "put", f"v1/{path}", token=token, body=body)

    async def settings_at(self, asker: Secret, path: str) -> dict[str, Any]:
        """The data of an answer that makes nothing, such as a secrets engine's role."""
        return _data(await self._transport.exchange("get", f"v1/{path}", token=asker))

    async def revoke_lease(self, asker: Secret, lease_id: str, *, now: bool = False) -> None:
        """Queue it; `now`: try it before answering. The server never retries that when the target is down (measured).

        The URL form, so that the broker's right can be limited to its own roles.
        """
        await self._transport.exchange("put", f"v1/sys/leases/revoke/{lease_id}", token=asker, body={"sync": now})

    async def lookup_lease(self, asker: Secret, lease_id: str) -> dict[str, Any]:
        return _data(await self._lease_api(asker).read_lease(lease_id))

    async def list_leases(self, asker: Secret, prefix: str) -> list[str]:
        """Whole ids of the leases under `<mount>/creds/<role>`."""
        path = f"v1/sys/leases/lookup/{prefix}"
        try:
            data = _data(await self._transport.exchange("list", path, token=asker, max_bytes=MAX_LIST_BYTES))
        except VaultRefused as error:
            if (error.status, error.errors) == (NOT_FOUND, ()):  # only in the server's own words
                return []
            raise
        return [f"{prefix}/{key}" for key in data.get("keys", [])]

    async def capabilities_self(self, asker: Secret, paths: list[str]) -> dict[str, Any]:
        body = {"paths": paths}
        return _data(await self._transport.exchange("post", "v1/sys/capabilities-self", token=asker, body=body))


def _data(body: dict[str, Any]) -> dict[str, Any]:
    data = body.get("data")
    if not isinstance(data, dict):
        raise VaultLost("the answer holds no data")
    return data


def _token_answer(body: dict[str, Any]) -> TokenAnswer:
    auth: Any = body.get("auth")
    try:
        return TokenAnswer(
            token=Secret(auth["client_token"]),
            accessor=auth["accessor"],
            life=int(auth["lease_duration"]),
            renewable=bool(auth["renewable"]),
            orphan=bool(auth["orphan"]),
            kind=auth["token_type"],
            policies=tuple(auth["policies"]),
            request_id=str(body.get("request_id", "")),
        )
    except (KeyError, TypeError, ValueError):
        raise VaultLost("the answer holds no token") from None
