"""What is asked with a lease's token, and from what the server answered to a typed credential."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import SSHCertificate, load_ssh_public_identity

from broker.model import Credential, KeyValue, SshCertificate, UsernamePassword, X509Certificate
from broker.providers.vault.scope import Kind, VaultBlock
from broker.secret import Secret

# Between the server's clock and ours, and by how much it may round: a certificate outside is not handed out.
CLOCK_SKEW = timedelta(seconds=30)
MAX_VERSION = 2**63 - 1  # int64 in the contract
# NotImplementedError is cryptography's, for the point of an SSH key that is compressed.
MALFORMED = (KeyError, TypeError, ValueError, OverflowError, NotImplementedError, UnsupportedAlgorithm)
CSR_HEADS = ("-----BEGIN CERTIFICATE REQUEST-----", "-----BEGIN NEW CERTIFICATE REQUEST-----")


def input_problem(block: VaultBlock, public_input: str) -> str:
    """What is wrong with what the caller brought; "" when it fits the scope."""
    needs = block.write.needs if block.write else ""
    if not needs:
        return "the scope takes no public_key or csr" if public_input else ""
    if needs == "csr":
        return "" if public_input.startswith(CSR_HEADS) else "the scope needs a csr in PEM form"
    one_line = "\n" not in public_input.strip() and not public_input.startswith("-----")
    return "" if public_input.strip() and one_line else "the scope needs an OpenSSH public_key"


def body_of(block: VaultBlock, public_input: str, seconds: int) -> dict[str, Any] | None:
    """What is written with the lease's token; None when it only reads."""
    if block.write is None:
        return None
    brought = {block.write.needs: public_input} if block.write.needs else {}
    return {**block.write.data, **brought, "ttl": f"{seconds}s"}


def child_of(body: Mapping[str, Any]) -> str:
    """The lease id of a leased secret, "" for one that has none."""
    lease_id = body.get("lease_id")
    return lease_id if isinstance(lease_id, str) else ""


def life_of(body: Mapping[str, Any]) -> int:
    """Seconds of a leased secret's lease, 0 when the answer does not say."""
    life = body.get("lease_duration")
    return life if isinstance(life, int) else 0


def credential_of(
    kind: Kind, body: Mapping[str, Any], until: datetime, *, attributes: Mapping[str, str | int] = MappingProxyType({})
) -> Credential | None:
    """None when it is not what the scope promises: another shape, or a certificate that does not end at `until`.

    `attributes`: of a login, as the operator declared them.
    """
    data = body.get("data")
    if not isinstance(data, dict) or not _can_be_said(data):
        return None
    try:
        if kind is Kind.X509:
            return _x509(data, until)
        if kind is Kind.SSH:
            return _ssh(data, until)
    except MALFORMED:
        return None
    return _login_or_values(body, data, attributes)


def _can_be_said(data: Mapping[str, Any]) -> bool:
    """As UTF-8, which protobuf demands: JSON can hold half a surrogate pair, and Python reads Infinity in it."""
    try:
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def _x509(data: Mapping[str, Any], until: datetime) -> X509Certificate | None:
    if not _ends_at(int(data["expiration"]), until):
        return None
    key = data.get("private_key")
    chain = data.get("ca_chain") or [data["issuing_ca"]]
    return X509Certificate(
        certificate_pem=_is_text(data["certificate"]),
        chain_pem=tuple(map(_is_text, chain)),
        serial_number=_is_text(data["serial_number"]),
        private_key_pem=Secret(_is_text(key)) if key else None,
    )


def _ssh(data: Mapping[str, Any], until: datetime) -> SshCertificate | None:
    """Its own bound is all that ends it, so that is read from the certificate itself."""
    signed = _is_text(data["signed_key"]).strip()
    certificate = load_ssh_public_identity(signed.encode())
    if not isinstance(certificate, SSHCertificate) or not _ends_at(certificate.valid_before, until):
        return None
    return SshCertificate(signed_key=signed, serial_number=_is_text(data["serial_number"]))


def _ends_at(seconds: int, until: datetime) -> bool:
    return abs(seconds - until.timestamp()) <= CLOCK_SKEW.total_seconds()


def _login_or_values(
    body: Mapping[str, Any], data: dict[str, Any], attributes: Mapping[str, str | int]
) -> Credential | None:
    version = 0
    if _is_kv2(data):
        version = data["metadata"]["version"]
        data = data["data"]
        if not isinstance(data, dict) or not 0 <= version <= MAX_VERSION:  # none: the latest version has been deleted
            return None
    if child_of(body) and isinstance(data.get("username"), str) and isinstance(data.get("password"), str):
        rest = {key: _text(value) for key, value in data.items() if key not in ("username", "password")}
        declared = {key: str(value) for key, value in attributes.items()}
        return UsernamePassword(
            username=data["username"], password=Secret(data["password"]), attributes={**rest, **declared}
        )
    return KeyValue(data={key: Secret(_text(value)) for key, value in data.items()}, version=version)


def _is_kv2(data: Mapping[str, Any]) -> bool:
    """KV v2 wraps its values; a value of KV v1 may itself have keys called data and metadata."""
    metadata = data.get("metadata")
    return (
        data.keys() == {"data", "metadata"}
        and isinstance(metadata, dict)
        and isinstance(metadata.get("version"), int)
        and isinstance(metadata.get("created_time"), str)
    )


def _is_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
