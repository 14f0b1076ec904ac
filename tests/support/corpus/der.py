"""Certificates that no builder makes: taken apart into DER elements, changed, and signed again."""

from __future__ import annotations

import hashlib
from base64 import encodebytes
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OBJECT, SEQUENCE = 0x01, 0x02, 0x03, 0x04, 0x06, 0x30
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
ECDSA_SHA1 = bytes.fromhex("300906072a8648ce3d0401")
RSA_MD5 = bytes.fromhex("300d06092a864886f70d0101040500")
RSA_SHA1 = bytes.fromhex("300d06092a864886f70d0101050500")


def wrap(tag: int, content: bytes) -> bytes:
    """One element."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def content_of(element: bytes) -> bytes:
    """What is inside one element."""
    return element[_header(element) :]


def elements(content: bytes) -> list[bytes]:
    """The elements that lie one behind the other in `content`."""
    found = []
    while content:
        start = _header(content)
        size = content[1] if content[1] < 0x80 else int.from_bytes(content[2:start], "big")
        found.append(content[: start + size])
        content = content[start + size :]
    return found


def _header(element: bytes) -> int:
    return 2 if element[1] < 0x80 else 2 + (element[1] & 0x7F)


@dataclass(kw_only=True)
class Tbs:
    """The signed part of a certificate (RFC 5280, section 4.1.2), each field a whole DER element."""

    version: bytes
    serial: bytes
    algorithm: bytes
    issuer: bytes
    validity: bytes
    subject: bytes
    public_key: bytes
    extensions: list[bytes]
    tail: bytes = b""  # behind the last field

    def __bytes__(self) -> bytes:
        fields = self.version + self.serial + self.algorithm + self.issuer + self.validity + self.subject
        last = wrap(0xA3, wrap(SEQUENCE, b"".join(self.extensions))) if self.extensions else b""
        return wrap(SEQUENCE, fields + self.public_key + last + self.tail)


def tbs_of(certificate: x509.Certificate) -> Tbs:
    """Take a version 3 certificate apart."""
    *fields, extensions = elements(content_of(certificate.tbs_certificate_bytes))
    names = ("version", "serial", "algorithm", "issuer", "validity", "subject", "public_key")
    listed = elements(content_of(content_of(extensions)))
    return Tbs(**dict(zip(names, fields, strict=True)), extensions=listed)


Sign = Callable[[bytes], bytes]  # body → signature


def ecdsa(key: ec.EllipticCurvePrivateKey, algorithm: hashes.HashAlgorithm | None = None) -> Sign:
    """With SHA-256 unless told otherwise."""
    return lambda body: key.sign(body, ec.ECDSA(algorithm or hashes.SHA256()))


def whole(tbs: Tbs, sign: Sign, outer: bytes | None = None) -> bytes:
    """DER of the certificate; `outer` names another algorithm than the signed part does."""
    body = bytes(tbs)
    return wrap(SEQUENCE, body + (outer or tbs.algorithm) + wrap(BIT_STRING, b"\0" + sign(body)))


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    """One extension with these bytes inside."""
    flag = wrap(BOOLEAN, b"\xff") if critical else b""
    return wrap(SEQUENCE, oid_of(oid) + flag + wrap(OCTET_STRING, value))


def oid_of(dotted: str) -> bytes:
    first, second, *rest = (int(part) for part in dotted.split("."))
    encoded = b""
    for number in (first * 40 + second, *rest):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        encoded += bytes(reversed(groups))
    return wrap(OBJECT, encoded)


def pem(der: bytes) -> bytes:
    """As the TLS layer writes it: lines of 64 characters."""
    text = encodebytes(der).replace(b"\n", b"")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return b"-----BEGIN CERTIFICATE-----\n" + b"\n".join(lines) + b"\n-----END CERTIFICATE-----\n"


def sha256_of_key(key: PublicKeyTypes) -> str:
    """Hex, of its SubjectPublicKeyInfo."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def der_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
