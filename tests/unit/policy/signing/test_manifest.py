"""The manifest has one spelling, and signed files are what was signed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.policy.language.files import MAX_BYTES, Folder, Memory
from broker.policy.signing import Fault, Manifest, ManifestError, NotSigned, SignedFiles, digests
from broker.policy.signing.manifest import parse_manifest
from tests.unit.policy.signing.people import CONTENTS, MANIFEST, NOW

GOLDEN = (
    b'{"environment":"prod","expires":"2026-07-01T12:00:00Z","files":{'
    b'"../base.yaml":"ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356",'
    b'"scopes.yaml":"09bfcc6a14b83e2192b8673677725c84883ee9cd0c70e45c9ec09daa8f2b2847",'
    b'"teams/payments.yaml":"fc2bee647c3980ce02cc6faea2676c5ae12e7e4d2b40e5b1644fb86b7a07a369'
    b'"},"root":"scopes.yaml","serial":7,"trust_domain":"prod.acme.internal","version":1}'
)

WORDS = st.text(st.characters(categories=["L", "N", "P"], exclude_characters="\\/"), min_size=1, max_size=10)
NAMES = st.lists(WORDS.filter(lambda word: set(word) != {"."}), min_size=1, max_size=3).map("/".join)
MANIFESTS = st.builds(
    lambda root, files, **rest: Manifest(root=root, files=files | {root: "0" * 64}, **rest),
    root=NAMES,
    environment=WORDS,
    trust_domain=WORDS,
    serial=st.integers(1, 2**53 - 1),
    expires=st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)).map(  # noqa: DTZ001
        lambda instant: instant.replace(microsecond=0, tzinfo=UTC)
    ),
    files=st.dictionaries(NAMES, st.binary(max_size=3).map(lambda raw: hashlib.sha256(raw).hexdigest()), max_size=4),
)


def malformed(payload: bytes) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(payload)
    assert caught.value.fault is Fault.MALFORMED


def test_golden() -> None:
    """Signatures of the past are over these bytes."""
    assert MANIFEST.payload() == GOLDEN
    assert MANIFEST.digest == hashlib.sha256(GOLDEN).hexdigest()


@given(MANIFESTS)
def test_read_is_what_was_written(manifest: Manifest) -> None:
    assert parse_manifest(manifest.payload()) == manifest


@given(MANIFESTS, MANIFESTS)
def test_two_manifests_are_spelt_alike_only_when_they_are_the_same(one: Manifest, other: Manifest) -> None:
    assert (one.payload() == other.payload()) == (one == other)


def test_one_instant_has_one_spelling() -> None:
    east = replace(MANIFEST, expires=MANIFEST.expires.astimezone(timezone(timedelta(hours=2))))
    assert east.payload() == MANIFEST.payload()


def test_other_spellings_are_refused() -> None:
    values = json.loads(GOLDEN)
    malformed(json.dumps(values).encode())
    malformed(GOLDEN + b"\n")
    malformed(GOLDEN.replace(b'{"environment"', b'{"environment":"dev","environment"', 1))
    malformed(GOLDEN.replace(b'"../base.yaml":', b'"../base.yaml":"' + b"0" * 64 + b'","../base.yaml":', 1))
    malformed(GOLDEN.replace(b"12:00:00Z", b"12:00:00+00:00"))
    malformed(GOLDEN.replace(b"2026-07-01", b"2026-7-1"))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"version": True},
        {"more": 1},
        {"serial": 0},
        {"serial": -1},
        {"serial": 7.0},
        {"serial": "7"},
        {"serial": True},
        {"serial": 2**53},
        {"environment": ""},
        {"environment": "a b"},
        {"environment": None},
        {"trust_domain": "\ud800"},
        {"trust_domain": "x" * 256},
        {"expires": "2026-07-01"},
        {"expires": "2026-13-01T00:00:00Z"},
        {"expires": 1},
        {"root": "other.yaml"},
        {"files": {}},
        {"files": []},
        {"files": {"scopes.yaml": "0" * 63}},
        {"files": {"scopes.yaml": "A" * 64}},
        {"files": {"scopes.yaml": "0" * 64 + "\n"}},
        {"files": {"scopes.yaml": 0}},
    ],
)
def test_other_shapes_are_refused(changes: dict[str, Any]) -> None:
    values = json.loads(GOLDEN) | changes
    malformed(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/..",
        "../..",
        "/etc/x",
        "./a",
        "a//b",
        "a/./b",
        "a/../b",
        "a/",
        "a\\b",
        "a\nb",
        "\u202e",
        "x" * 513,
    ],
)
def test_a_name_that_could_be_another_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="relative paths of plain characters"):
        replace(MANIFEST, files={**MANIFEST.files, name: "0" * 64})


def test_an_expiry_is_exact_and_aware() -> None:
    for expires in (NOW.replace(tzinfo=None), NOW.replace(microsecond=1)):
        with pytest.raises(ValueError, match="the expiry must"):
            replace(MANIFEST, expires=expires)


def test_a_file_that_would_be_read_in_part_is_not_signed() -> None:
    assert digests({"a": b"x" * MAX_BYTES})
    with pytest.raises(ValueError, match="larger than"):
        digests({"a": b"x" * (MAX_BYTES + 1)})


def test_signed_files_are_what_was_signed() -> None:
    files = SignedFiles(files=Memory(contents=CONTENTS, label="rev:"), manifest=MANIFEST)
    assert {name: files.read(name) for name in CONTENTS} == CONTENTS
    assert files.shown("scopes.yaml") == "rev:scopes.yaml"


def test_a_tampered_a_missing_and_an_unlisted_file(tmp_path: Path) -> None:
    files = SignedFiles(files=Folder(path=tmp_path), manifest=MANIFEST)
    (tmp_path / "scopes.yaml").write_bytes(CONTENTS["scopes.yaml"] + b"#")
    with pytest.raises(NotSigned, match="is not the file that was signed"):
        files.read("scopes.yaml")
    (tmp_path / "more.yaml").write_bytes(b"")
    with pytest.raises(NotSigned, match="is not in the signed manifest"):
        files.read("more.yaml")
    with pytest.raises(FileNotFoundError):
        files.read("teams/payments.yaml")


def test_what_is_checked_is_what_is_returned() -> None:
    """A file that is another one at each read: never is the second one returned on the first one's digest."""

    class Flipping(Memory):
        reads = 0

        def read(self, name: str) -> bytes:
            Flipping.reads += 1
            return CONTENTS[name] if Flipping.reads % 2 else b"evil"

    files = SignedFiles(files=Flipping(contents={}), manifest=MANIFEST)
    assert files.read("scopes.yaml") == CONTENTS["scopes.yaml"]
    with pytest.raises(NotSigned):
        files.read("scopes.yaml")
