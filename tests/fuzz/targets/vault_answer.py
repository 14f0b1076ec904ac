"""What Vault answers, as JSON: a credential that can be handed out, or nothing. The first byte says what was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import SSHCertificateBuilder, SSHCertificateType

from broker.leases.committing import Delivered
from broker.providers.vault.credentials import child_of, credential_of, life_of
from broker.providers.vault.scope import Kind
from broker.rpc import convert
from tests.fakes import domain
from tests.fuzz.target import Check, Target

KINDS = tuple(Kind)
UNTIL = datetime(2026, 11, 22, 12, tzinfo=UTC)


@contextmanager
def ready(_folder: Path) -> Iterator[Check]:
    def check(data: bytes) -> None:
        try:
            body = json.loads(data[1:])
        except (ValueError, RecursionError):  # the transport's business
            return
        if not isinstance(body, dict):
            return
        assert isinstance(child_of(body), str)
        assert isinstance(life_of(body), int)
        found = credential_of(KINDS[next(iter(data), 0) % len(KINDS)], body, UNTIL)
        if found is not None:
            convert.issued(Delivered(lease=domain.lease(), credential=found)).SerializeToString()

    yield check


def _ssh() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = SSHCertificateBuilder().public_key(key.public_key()).serial(7).type(SSHCertificateType.USER)
    builder = builder.key_id(b"a").valid_principals([b"ops"]).valid_after((UNTIL - timedelta(hours=1)).timestamp())
    return builder.valid_before(UNTIL.timestamp()).sign(key).public_bytes().decode()


def seeds() -> Iterator[bytes]:
    metadata = {"version": 3, "created_time": "2026-01-01T00:00:00Z"}
    expiration = int(UNTIL.timestamp())
    bodies = [
        {
            "data": {"username": "u", "password": "p", "x": [1, None]},
            "lease_id": "database/creds/r/1",
            "lease_duration": 60,
        },
        {"data": {"data": {"key": "value", "n": 1}, "metadata": metadata}},
        {"data": {"data": None, "metadata": metadata}},
        {
            "data": {
                "certificate": "c",
                "ca_chain": ["a"],
                "serial_number": "1",
                "private_key": "k",
                "expiration": expiration,
            }
        },
        {"data": {"certificate": "c", "issuing_ca": "a", "serial_number": "1", "expiration": expiration}},
        {"data": {"signed_key": _ssh(), "serial_number": "7"}},
        {"data": {"key": "value"}},
        {"data": None},
    ]
    for number in range(len(KINDS)):
        for body in bodies:
            yield bytes([number]) + json.dumps(body).encode()


TARGET = Target(
    ready=ready,
    seeds=seeds,
    words=(
        b"Infinity",
        b"NaN",
        b"1e999",
        b"\\ud800",
        b"\\u0000",
        b"null",
        b"true",
        b"99999999999999999999",
        b'"data":',
    ),
    max_bytes=2048,
)
