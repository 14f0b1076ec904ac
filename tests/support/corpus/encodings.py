"""Bends of the encoding: certificates that no builder makes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.corpus.case import ID, Bad, Make, Pki, Shown, both, ours, shown
from tests.support.corpus.der import (
    BIT_STRING,
    ECDSA_SHA1,
    ECDSA_SHA384,
    INTEGER,
    OCTET_STRING,
    RSA_MD5,
    RSA_SHA1,
    SEQUENCE,
    Tbs,
    content_of,
    ecdsa,
    elements,
    extension,
    oid_of,
    tbs_of,
    whole,
    wrap,
)

CLIENT_AUTH = bytes.fromhex("300a06082b06010505070302")


def forged(change: Callable[[Tbs], None], *, outer: bytes | None = None, **overrides: Any) -> Make:
    return lambda pki: pki.forged(change, outer=outer, **overrides)


def field(**fields: bytes) -> Make:
    """With these fields of the signed part exchanged."""

    def change(tbs: Tbs) -> None:
        for name, value in fields.items():
            setattr(tbs, name, value)

    return forged(change)


def one_more(oid: str, value: bytes) -> Make:
    return forged(lambda tbs: tbs.extensions.append(extension(oid, value)))


def without_extensions(tbs: Tbs) -> None:
    tbs.extensions = []


def first_version(tbs: Tbs) -> None:
    tbs.version = b""
    tbs.extensions = []


def ends_before_it_begins(tbs: Tbs) -> None:
    start, end = elements(content_of(tbs.validity))
    tbs.validity = wrap(SEQUENCE, end + start)


def years_in_four_digits(tbs: Tbs) -> None:
    """GeneralizedTime before 2050 (RFC 5280, section 4.1.2.5)."""
    tbs.validity = wrap(
        SEQUENCE, b"".join(wrap(0x18, b"20" + content_of(time)) for time in elements(content_of(tbs.validity)))
    )


def short_times(tbs: Tbs) -> None:
    """Without seconds, which DER asks for."""
    tbs.validity = wrap(
        SEQUENCE, b"".join(wrap(0x17, content_of(time)[:10] + b"Z") for time in elements(content_of(tbs.validity)))
    )


def signed_with(algorithm: bytes, hashed: hashes.HashAlgorithm) -> Make:
    """By the root of the kind, with another digest."""

    def make(pki: Pki) -> Shown:
        of_rsa = algorithm in (RSA_MD5, RSA_SHA1)
        made, key = pki.ca.leaf(ID, issuer=pki.rsa if of_rsa else pki.root)
        tbs, rsa = tbs_of(made), pki.rsa.key
        tbs.algorithm = algorithm
        if of_rsa:
            return shown(whole(tbs, lambda body: rsa.sign(body, padding.PKCS1v15(), hashed)), key=key)  # type: ignore[call-arg,arg-type]
        return shown(whole(tbs, ecdsa(pki.root.key, hashed)), key=key)

    return make


def signature(value: bytes) -> Make:
    def make(pki: Pki) -> Shown:
        made, key = pki.ca.leaf(ID)
        return shown(whole(tbs_of(made), lambda _: value), key=key)

    return make


P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
P256_GENERATOR = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)


def spelt_out(point: bytes, generator: bytes = P256_GENERATOR) -> bytes:
    """A public key on P-256 by its parameters instead of its name (SEC 1, section C.2)."""
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    field_id = wrap(SEQUENCE, oid_of("1.2.840.10045.1.1") + integer(prime))
    a_and_b = b"".join(wrap(OCTET_STRING, one.to_bytes(32, "big")) for one in (prime - 3, b))
    base = wrap(OCTET_STRING, generator) + integer(P256_ORDER) + integer(1)
    parameters = wrap(SEQUENCE, integer(1) + field_id + wrap(SEQUENCE, a_and_b) + base)
    kind = wrap(SEQUENCE, oid_of("1.2.840.10045.2.1") + parameters)
    return wrap(SEQUENCE, kind + wrap(BIT_STRING, b"\0" + point))


def on_a_spelt_out_curve(pki: Pki) -> Shown:
    made, key = pki.ca.leaf(ID)
    tbs = tbs_of(made)
    tbs.public_key = spelt_out(key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
    return shown(whole(tbs, ecdsa(pki.root.key)), key=key)


def on_a_curve_of_ones_own(pki: Pki) -> Shown:
    """CVE-2020-0601: the root's public key as the generator, of which the private key is 1."""
    theirs = pki.deep.key.public_key()
    point = theirs.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def sign(body: bytes) -> bytes:
        nonce = ec.generate_private_key(ec.SECP256R1())
        k = nonce.private_numbers().private_value
        r = int.from_bytes(nonce.exchange(ec.ECDH(), theirs), "big") % P256_ORDER  # of k times the root's key
        s = pow(k, -1, P256_ORDER) * (int.from_bytes(hashlib.sha256(body).digest(), "big") + r) % P256_ORDER
        return encode_dss_signature(r, s)

    root, (made, key) = tbs_of(pki.deep.certificate), pki.ca.leaf(ID, issuer=pki.deep)
    root.public_key = spelt_out(point, generator=point)
    return shown(whole(tbs_of(made), sign), whole(root, sign), key=key)


def integer(number: int) -> bytes:
    return wrap(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def padded_leaf(size: int) -> Make:
    return one_more("1.3.6.1.4.1.99999.1", bytes(size))


def tail(pki: Pki) -> Shown:
    """Bytes behind the certificate."""
    good = pki.leaf()
    return Shown(chain=(good.chain[0] + b"\x05\x00",), key=good.key)


ENCODINGS: dict[str, Bad] = {
    "version 1": ours(forged(first_version)),
    "version 1 with extensions": both(field(version=b"")),
    "version 2 with extensions": both(field(version=bytes.fromhex("a003020101"))),
    "version 4": both(field(version=bytes.fromhex("a003020103"))),
    "version 3 without extensions": ours(forged(without_extensions)),
    "negative serial number": ours(field(serial=wrap(INTEGER, b"\x80\x01"))),
    "serial number zero": ours(field(serial=wrap(INTEGER, b"\0"))),
    "serial number of 30 bytes": ours(field(serial=wrap(INTEGER, b"\x01" * 30))),
    "no serial number": both(field(serial=wrap(INTEGER, b""))),
    "serial number with leading zeros": both(field(serial=wrap(INTEGER, b"\0\0\x01"))),
    "ends before it begins": both(forged(ends_before_it_begins)),
    "years in four digits": ours(forged(years_in_four_digits)),
    "times without seconds": both(forged(short_times)),
    "two extended key usages": both(one_more("2.5.29.37", CLIENT_AUTH)),
    "two basic constraints": both(one_more("2.5.29.19", bytes.fromhex("30030101ff"))),
    "two unknown extensions of a kind": ours(
        forged(lambda tbs: tbs.extensions.extend([extension("1.3.6.1.4.1.99999.1", b"\x05\x00")] * 2))
    ),
    "basic constraints of rubbish": both(
        forged(lambda tbs: tbs.extensions.append(extension("2.5.29.19", b"rubbish")), ca=None)
    ),
    "extended key usage of rubbish": both(
        forged(lambda tbs: tbs.extensions.append(extension("2.5.29.37", b"rubbish")), eku=None)
    ),
    "extended key usage of nothing": both(
        forged(lambda tbs: tbs.extensions.append(extension("2.5.29.37", b"\x30\x00")), eku=None)
    ),
    "key usage of nothing": both(
        forged(lambda tbs: tbs.extensions.append(extension("2.5.29.15", b"\x03\x01\x00")), usages=None)
    ),
    "subject of rubbish": both(field(subject=wrap(SEQUENCE, b"rubbish"))),
    "bytes behind the signed fields": both(field(tail=b"\x05\x00")),
    "bytes behind the certificate": both(tail),
    "20 kB of certificate": ours(padded_leaf(20_000)),
    "SHA-1": ours(signed_with(ECDSA_SHA1, hashes.SHA1())),
    "SHA-1 with RSA": ours(signed_with(RSA_SHA1, hashes.SHA1())),
    "MD5 with RSA": both(signed_with(RSA_MD5, hashes.MD5())),
    "another algorithm outside than inside": both(forged(lambda _: None, outer=ECDSA_SHA384)),
    "signature of zeros": both(signature(bytes.fromhex("3006020100020100"))),  # CVE-2022-21449
    "empty signature": both(signature(b"")),
    "signature of rubbish": both(signature(b"rubbish")),
    "P-256 spelt out": both(on_a_spelt_out_curve),
    "issued on a curve of one's own": both(on_a_curve_of_ones_own),
}
