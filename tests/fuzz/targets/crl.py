"""Revocation lists: used, or refused with the reason. The first byte says what the rest is.

Bit 0: DER, to be wrapped as PEM; else PEM, DER, or whatever. Bit 1: signed again by the CA, so that a bent one is believed as
far as it is well-formed. Bit 2: a newer one is in force already.
"""

from __future__ import annotations

from base64 import encodebytes
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from broker.errors import ConfigError
from broker.identity.authority import new_authority
from broker.identity.bundle import Bundle
from broker.identity.crl import parse_crls
from broker.model import Certificate
from tests.fuzz.target import Check, Target
from tests.fuzz.targets.certificate import AT, DER, SIGNED, bend, leaf_of, signed_again
from tests.support.certs import revocation_list

NEWER = 4
IN_FORCE = 5  # the number of the one before


@contextmanager
def ready(_folder: Path) -> Iterator[Check]:
    root = new_authority("root", now=AT, path_length=None)
    leaf = leaf_of(root)
    bundle = Bundle(roots=(root.certificate,), pem=b"")
    before = revocation_list(root, number=IN_FORCE, last_update=AT, next_update=AT + timedelta(days=1))
    old = parse_crls([before.public_bytes(Encoding.DER)], ["old"], bundle, None)

    def check(data: bytes) -> None:
        how, body = next(iter(data), 0), data[1:]
        if how & SIGNED:
            body = signed_again(body, root.key)
        if how & DER:
            body = b"-----BEGIN X509 CRL-----\n" + encodebytes(body) + b"-----END X509 CRL-----\n"
        try:
            found = parse_crls([body], ["agents.crl"], bundle, old if how & NEWER else None)
        except ConfigError as error:
            assert error.problems
            assert all(problem.isprintable() for problem in error.problems)
            return
        found.standing([leaf, root.certificate])
        for one in found.lists:
            if one.issuer_der == root.certificate.subject.public_bytes():
                assert one.signed.is_signature_valid(root.key.public_key()), "a list that its issuer did not sign"
                same = one.key_id == old.lists[0].key_id
                assert not (same and how & NEWER) or one.number >= IN_FORCE, "an older list undoes a revocation"
            for serial in one.serials:
                assert found.names(Certificate(serial_number=f"{serial:x}", issuer=one.issuer))

    yield check


def seeds() -> Iterator[bytes]:
    root = new_authority("root", now=AT, path_length=None)
    point = x509.IssuingDistributionPoint(
        full_name=[x509.UniformResourceIdentifier("http://a.test/crl")],
        relative_name=None,
        only_contains_user_certs=True,
        only_contains_ca_certs=False,
        only_some_reasons=None,
        indirect_crl=False,
        only_contains_attribute_certs=False,
    )
    times: dict[str, Any] = {"last_update": AT, "next_update": AT + timedelta(days=1)}
    late: dict[str, Any] = {
        "last_update": datetime(2049, 12, 31, tzinfo=UTC),
        "next_update": datetime(9999, 1, 1, tzinfo=UTC),
    }
    lists = [
        revocation_list(root, 1, 2, 3, number=6, **times),
        revocation_list(root, number=None, **times),
        revocation_list(root, 7, number=9, extra=((point, True),), **times),
        revocation_list(root, 7, number=9, extra=((x509.DeltaCRLIndicator(1), True),), **times),
        revocation_list(root, 2**150, number=2**100, **late),
    ]
    for one in lists:
        raw = one.public_bytes(Encoding.DER)
        yield bytes([SIGNED]) + raw
        yield bytes([SIGNED | DER | NEWER]) + raw
    yield b"\0" + lists[0].public_bytes(Encoding.PEM) + lists[1].public_bytes(Encoding.PEM)
    yield b"\0" + b"-----BEGIN X509 CRL-----\n" * 40


TARGET = Target(
    ready=ready,
    seeds=seeds,
    words=(b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"),
    mutate=bend,
    max_bytes=4096,
)
