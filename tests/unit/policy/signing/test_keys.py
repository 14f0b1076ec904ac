"""Private keys: kept from others, encrypted or not, and of the kinds that the broker takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Never

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from broker.errors import ConfigError
from broker.policy.signing import generate, load_keys, load_signer, sign, signers
from broker.secret import Secret
from tests.unit.policy.signing.people import MANIFEST

CLEAR = NoEncryption()


def not_asked() -> Never:
    raise AssertionError("a passphrase was asked for")


def private(
    folder: Path, key: PrivateKeyTypes, *, mode: int = 0o600, encryption: KeySerializationEncryption = CLEAR
) -> Path:
    path = folder / "some.key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    path.chmod(mode)
    return path


def problem(path: Path, passphrase: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        load_signer(path, lambda: Secret(passphrase))
    (told,) = caught.value.problems
    return told.replace(str(path), "KEY")


def test_a_new_pair_signs_and_verifies(tmp_path: Path) -> None:
    key, public = generate(tmp_path / "alice")
    assert (key.name, public.name) == ("alice.key.pem", "alice.pem")
    assert key.stat().st_mode & 0o777 == 0o600
    envelope = sign(MANIFEST, load_signer(key, not_asked))
    assert signers(envelope, load_keys({"alice": public})) == {"alice"}


@pytest.mark.parametrize("there", ["alice.key.pem", "alice.pem"])
def test_a_pair_never_overwrites(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(FileExistsError) as caught:
        generate(tmp_path / "alice")
    assert caught.value.filename == str(tmp_path / there)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65537, 3072),
    ],
)
def test_each_kind_that_is_taken(tmp_path: Path, key: PrivateKeyTypes) -> None:
    assert load_signer(private(tmp_path, key), not_asked).public_key.keyid


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        x25519.X25519PrivateKey.generate(),
    ],
)
def test_others_are_refused(tmp_path: Path, key: PrivateKeyTypes) -> None:
    told = problem(private(tmp_path, key))
    assert told == "KEY is not an Ed25519, P-256 or RSA key of at least 3072 bits"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_one_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = private(tmp_path, ed25519.Ed25519PrivateKey.generate(), mode=mode)
    assert problem(path) == "KEY can be read by others; run chmod 600 KEY"


def test_encrypted(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    path = private(tmp_path, key, encryption=BestAvailableEncryption(b"three words here"))
    assert load_signer(path, lambda: Secret("three words here")).public_key
    for wrong in ("another", ""):
        assert problem(path, wrong) == "KEY cannot be decrypted: another passphrase, or a damaged file"


def test_what_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "some.key.pem"
    assert problem(path) == "KEY does not exist"
    path.touch(mode=0o600)
    assert problem(path) == "KEY holds no PEM private key"
    _, public = generate(tmp_path / "alice")
    path.write_bytes(public.read_bytes())
    assert problem(path) == "KEY holds no PEM private key"
    assert problem(tmp_path) == "KEY is a folder; name a file"


def test_unsigned_maps_do_not_pay_for_the_library() -> None:
    code = "import sys, broker.policy.signing; sys.exit('securesystemslib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
