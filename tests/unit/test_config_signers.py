"""`[scopes.keys]` and the thresholds: what would let a map through with fewer people than it says is refused at the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.unit.test_config import GOOD, folder, problems, read

__all__ = ["folder"]  # the fixture

UNSIGNED = GOOD.replace('file = "scopes.yaml"\n', 'file = "scopes.yaml"\n{more}\n')
TWO = 'keys = {alice = "alice.pem", bob = "bob.pem"}'


def pem(folder: Path, name: str, key: PublicKeyTypes) -> None:
    path = folder / name
    path.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    path.chmod(0o644)


@pytest.fixture
def keys(folder: Path) -> Path:
    pem(folder, "alice.pem", ed25519.Ed25519PrivateKey.generate().public_key())
    pem(folder, "bob.pem", ec.generate_private_key(ec.SECP256R1()).public_key())
    return folder


def told(folder: Path, more: str) -> list[str]:
    found = problems(folder, UNSIGNED.replace("{more}", more))
    return [problem.removeprefix("DIR/broker.toml: scopes") for problem in found]


def test_no_keys_no_signatures(folder: Path) -> None:
    scopes = read(folder).scopes
    assert (dict(scopes.keys), scopes.threshold, scopes.threshold_high) == ({}, 1, 2)


def test_keys_thresholds_and_where_the_manifest_is(keys: Path) -> None:
    scopes = read(keys, UNSIGNED.replace("{more}", TWO)).scopes
    assert dict(scopes.keys) == {"alice": keys / "alice.pem", "bob": keys / "bob.pem"}
    assert (scopes.threshold, scopes.threshold_high) == (1, 2)
    assert scopes.manifest_file == keys / "scopes.yaml.dsse.json"
    (keys / "signed.json").touch(mode=0o644)
    scopes = read(keys, UNSIGNED.replace("{more}", f'{TWO}\nmanifest = "signed.json"\nthreshold = 2')).scopes
    assert (scopes.manifest_file, scopes.threshold) == (keys / "signed.json", 2)


def test_a_table_of_its_own_and_a_threshold_from_the_environment(keys: Path) -> None:
    text = GOOD + '[scopes.keys]\nalice = "alice.pem"\nbob = "bob.pem"\n'
    assert read(keys, text, {"STEPCRED_BROKER_SCOPES__THRESHOLD": "2"}).scopes.threshold == 2


def test_large_enough_rsa(keys: Path) -> None:
    pem(keys, "bob.pem", rsa.generate_private_key(65537, 3072).public_key())
    assert len(read(keys, UNSIGNED.replace("{more}", TWO)).scopes.keys) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("keys = {}", ".keys: names no key; name those that may sign the scope map, or remove the section"),
        (
            f"{TWO}\nthreshold_high = 3",
            ": threshold_high is more than the number of keys, 2: they could never sign enough",
        ),
        (f"{TWO}\nthreshold = 3", ": threshold_high must not be less than threshold"),
        ('keys = {alice = "alice.pem"}', ": threshold_high is more than the number of keys, 1: they could never sign"),
        (f"{TWO}\nthreshold = 2\nthreshold_high = 1", ": threshold_high must not be less than threshold"),
        (f"{TWO}\nthreshold = 0", ".threshold: must be at least 1"),
        (f"{TWO}\nthreshold = true", ".threshold: must be a whole number, without quotes"),
        ("threshold = 2", ": threshold, threshold_high and manifest need [scopes.keys]"),
        ('manifest = "ca.pem"', ": threshold, threshold_high and manifest need [scopes.keys]"),
        ('keys = "alice.pem"', ".keys: is a table; write [scopes.keys] and its lines below"),
        ('keys = {Alice = "alice.pem"}', ".keys.Alice: must be lower-case letters"),
        ('keys = {alice = "alice.pem", bob = "none.pem"}', ".keys.bob: DIR/none.pem does not exist"),
        ("keys = {alice = 3}", ".keys.alice: must be the path of a file"),
        ('keys = {alice = "ca.pem"}', ".keys: alice: DIR/ca.pem holds no PEM public key (-----BEGIN PUBLIC KEY-----)"),
        ('keys = {alice = "alice.pem", bob = "link.pem"}', ".keys: alice and bob have the same key"),
        ('keys = {alice = "alice.pem", bob = "copy.pem"}', ".keys: alice and bob have the same key"),
        (
            'keys = {alice = "rsa.pem"}',
            ".keys: alice: DIR/rsa.pem is not an Ed25519, P-256 or RSA key of at least 3072",
        ),
        ('keys = {alice = "p384.pem"}', ".keys: alice: DIR/p384.pem is not an Ed25519, P-256"),
        ('keys = {alice = "open.pem"}', ".keys.alice: DIR/open.pem can be written by everybody; run chmod o-w"),
    ],
)
def test_what_could_not_be_meant_is_one_problem(keys: Path, more: str, message: str) -> None:
    (keys / "link.pem").symlink_to("alice.pem")
    (keys / "copy.pem").write_text("# Bob's\n" + (keys / "alice.pem").read_text())
    (keys / "open.pem").write_text((keys / "alice.pem").read_text())
    (keys / "open.pem").chmod(0o666)
    pem(keys, "rsa.pem", rsa.generate_private_key(65537, 2048).public_key())
    pem(keys, "p384.pem", ec.generate_private_key(ec.SECP384R1()).public_key())
    found = told(keys, more)
    assert len(found) == 1, found
    assert found[0].startswith(message)


def test_one_point_in_two_spellings_is_one_key(keys: Path) -> None:
    """A P-256 key can be written compressed: other bytes, the same person."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem(keys, "alice.pem", key)
    compressed = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    prefix = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
    from base64 import encodebytes

    body = encodebytes(prefix + compressed).decode()
    (keys / "bob.pem").write_text(f"-----BEGIN PUBLIC KEY-----\n{body}-----END PUBLIC KEY-----\n")
    assert told(keys, TWO)[0].startswith(".keys: alice and bob have the same key")


def test_no_key_by_the_environment(keys: Path) -> None:
    env = {"STEPCRED_BROKER_SCOPES__KEYS__ALICE": "alice.pem"}
    assert problems(keys, env=env) == [
        "STEPCRED_BROKER_SCOPES__KEYS__ALICE: scopes.keys: is a value, and has no keys below it"
    ]
    assert "is a table" in problems(keys, env={"STEPCRED_BROKER_SCOPES__KEYS": "alice.pem"})[0]
