"""Is a certificate on a revocation list of its mount? Read as its verifiers read it, without a token."""

from __future__ import annotations

from typing import Any

from cryptography import x509

from broker.providers.vault.transport import Transport, VaultLost

MAX_LIST_BYTES = 32 << 20  # some 600,000 certificates: far more than a mount of short-lived ones holds


class RevocationLists:
    """Errors are the transport's."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def holds(self, mount: str, serial: str) -> bool:
        """`serial`: colon-separated hex. The default issuer's list, then the others'."""
        number = int(serial.replace(":", ""), 16)
        if _is_on(await self._read(f"{mount}/cert/crl", "certificate"), number):
            return True
        issuers = _data(await self._transport.exchange("list", f"v1/{mount}/issuers")).get("keys", [])
        for issuer in issuers if len(issuers) > 1 else ():
            if _is_on(await self._read(f"{mount}/issuer/{issuer}/crl", "crl"), number):
                return True
        return False

    async def _read(self, path: str, key: str) -> str:
        answer = await self._transport.exchange("get", f"v1/{path}", max_bytes=MAX_LIST_BYTES)
        return str(_data(answer).get(key, ""))


def _is_on(pem: str, serial: int) -> bool:
    try:
        revoked = x509.load_pem_x509_crl(pem.encode())
    except ValueError:
        raise VaultLost("the answer holds no revocation list") from None
    return revoked.get_revoked_certificate_by_serial_number(serial) is not None


def _data(body: dict[str, Any]) -> dict[str, Any]:
    data = body.get("data")
    return data if isinstance(data, dict) else {}
