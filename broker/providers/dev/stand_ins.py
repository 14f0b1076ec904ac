"""What is handed out: of the type that the real provider would give, with values that show where they come from."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from broker.model import (
    AwsSession,
    Credential,
    JsonValue,
    KeyValue,
    UsernamePassword,
    VaultToken,
    X509Certificate,
)
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.base import LeaseRef
from broker.providers.dev.certificates import ssh_for, x509_for
from broker.providers.dev.scope import DevBlock, Shape, check_values
from broker.providers.vault.scope import Kind, VaultBlock
from broker.secret import Secret

NOWHERE = "https://vault.dev.invalid"  # RFC 6761: resolves nowhere, so that a stand-in is never shown to a real server
_REGION = "eu-west-1"
_SHAPES = {
    Kind.TOKEN: Shape.TOKEN,
    Kind.LEASED: Shape.LOGIN,
    Kind.X509: Shape.X509,
    Kind.SSH: Shape.SSH,
    Kind.STATIC: Shape.VALUES,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a scope's block asks for, whichever provider it names."""

    shape: Shape
    values: Mapping[str, str]
    needs: str = ""  # csr, public_key or nothing
    common_name: str = ""
    principals: str = ""
    fail: str = ""


def wanted(provider: str, params: Mapping[str, JsonValue]) -> Wanted:
    """Of a block that the real kind has validated."""
    if provider == "vault":
        return _of_vault(VaultBlock.model_validate(dict(params)))
    if provider == "aws":
        return _of_aws(AwsBlock.model_validate(params))
    block = DevBlock.model_validate(dict(params))
    needs = "public_key" if block.kind is Shape.SSH else ""
    name = block.values.get("common_name", "dev-stand-in")
    return Wanted(
        shape=block.kind,
        values=block.values,
        needs=needs,
        common_name=name,
        principals="dev",
        fail=block.fail or "",
    )


def _of_vault(block: VaultBlock) -> Wanted:
    data = block.write.data if block.write else {}
    return Wanted(
        shape=_SHAPES[block.kind],
        values={name: str(value) for name, value in block.attributes.items()},
        needs=block.write.needs if block.write else "",
        common_name=str(data.get("common_name", "dev-stand-in")),
        principals=str(data.get("valid_principals", "dev")),
    )


def _of_aws(block: AwsBlock) -> Wanted:
    if block.stored:
        return Wanted(shape=Shape.VALUES, values={})
    where = {"region": block.regions[0] if block.regions else _REGION, "endpoint_url": block.endpoint_url or ""}
    return Wanted(shape=Shape.AWS, values=where)


def make(asked: Wanted, ref: LeaseRef, own: Mapping[str, str], public_input: str, now: datetime) -> Credential:
    """`own`: values that somebody wants in it, before the block's.

    Raises ValueError for values that it does not have, and for an input that is none.
    """
    check_values(asked.shape, own)
    values = {**asked.values, **own}
    match asked.shape:
        case Shape.TOKEN:
            return VaultToken(
                token=Secret(values.get("token", _made("token", ref))),
                address=values.get("address", NOWHERE),
                namespace=values.get("namespace", ""),
            )
        case Shape.LOGIN:
            rest = {key: text for key, text in values.items() if key not in ("username", "password")}
            password = Secret(values.get("password", _made("password", ref)))
            return UsernamePassword(
                username=values.get("username", f"dev-{ref.lease_id}"), password=password, attributes=rest
            )
        case Shape.AWS:
            return AwsSession(
                access_key_id=values.get("access_key_id", f"dev-{ref.lease_id}"),
                secret_access_key=Secret(values.get("secret_access_key", _made("secret", ref))),
                session_token=Secret(values.get("session_token", _made("session", ref))),
                region=values.get("region", _REGION),
                endpoint_url=values.get("endpoint_url", ""),
                session_expires_at=ref.expires_at,
            )
        case Shape.VALUES:
            held = values or {"value": _made("value", ref)}
            return KeyValue(data={key: Secret(text) for key, text in held.items()}, version=1)
        case Shape.X509:
            name = values.get("common_name", asked.common_name)
            return x509_for(name, public_input if asked.needs else "", now, ref.expires_at)
        case Shape.SSH:
            return ssh_for(asked.principals, public_input, ref.lease_id, now, ref.expires_at)


def _made(what: str, ref: LeaseRef) -> str:
    return f"dev-{what}-{ref.lease_id}-{secrets.token_hex(8)}"


def secrets_of(credential: Credential) -> tuple[Secret, ...]:
    """By which whoever verifies would know it."""
    match credential:
        case VaultToken():
            return (credential.token,)
        case UsernamePassword():
            return (credential.password,)
        case AwsSession():
            return credential.secret_access_key, credential.session_token
        case KeyValue():
            return tuple(credential.data.values())
        case X509Certificate(private_key_pem=Secret() as key):
            return (key,)
        case _:
            return ()
