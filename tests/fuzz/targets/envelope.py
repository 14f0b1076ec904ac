"""A signed manifest: read or refused, and nothing but what the two people signed is ever verified."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.policy.signing import ManifestError, add_signature, read_unverified, signers
from tests.fuzz.target import Check, Target
from tests.unit.policy.signing.people import ALICE, BOB, KEYS, MALLORY, MANIFEST, look, opened, signed


@contextmanager
def ready(_folder: Path) -> Iterator[Check]:
    def check(data: bytes) -> None:
        for threshold in (1, 2):
            try:
                found = look(data, threshold)
            except ManifestError as error:
                assert str(error).isprintable()
            else:  # the keys are of this process, and these two bodies are all that they ever signed
                assert found.manifest == MANIFEST
                assert len(found.signers) >= threshold
        try:
            read_unverified(data)
            signers(data, KEYS)
            add_signature(data, MALLORY)
        except ManifestError:
            pass

    yield check


def seeds() -> Iterator[bytes]:
    whole = signed(ALICE, BOB)
    yield from (whole, signed(ALICE), signed(MALLORY, ALICE), signed(MALLORY))
    plain = opened(whole)
    yield json.dumps(plain).encode()
    yield json.dumps(plain | {"signatures": plain["signatures"] * 2}).encode()
    yield json.dumps(plain | {"signatures": []}).encode()
    for payload in (b"{}", b"[" * 2000, b'{"version":1e999}', b'{"serial":' + b"9" * 5000 + b"}"):
        yield json.dumps(plain | {"payload": b64encode(payload).decode()}).encode()


TARGET = Target(
    ready=ready,
    seeds=seeds,
    words=(b'"payload":', b'"payloadType":', b'"signatures":', b'"keyid":', b'"sig":', b"NaN", b"1e999", b"\\ud800"),
    max_bytes=8192,
)
