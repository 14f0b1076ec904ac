import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import keyring, process
from broker.errors import ConfigError
from broker.keyring import Keyring, encode, generate, handle_of, hash_handle, load

KEY = bytes(range(32))
PARTS = st.lists(st.binary(max_size=4), max_size=4)


def ring(**keys: bytes) -> Keyring:
    return Keyring(keys or {"k1": KEY}, list(keys or {"k1": KEY})[-1])


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@given(PARTS, PARTS)
def test_different_parts_never_encode_alike(one: list[bytes], other: list[bytes]) -> None:
    assert (encode(*one) == encode(*other)) == (one == other)


def test_a_name_depends_on_key_purpose_and_every_part() -> None:
    both = ring(k1=KEY, k2=KEY[::-1])
    names = {
        both.derive("k1", "vault-token", "lease", b"nonce"),
        both.derive("k2", "vault-token", "lease", b"nonce"),
        both.derive("k1", "step-handle", "lease", b"nonce"),
        both.derive("k1", "vault-token", "leasen", b"once"),
        both.derive("k1", "vault-token", "lease", b"nonce", b""),
    }
    assert len(names) == 5
    assert {len(name) for name in names} == {32}
    assert both.derive("k1", "vault-token", "lease", b"nonce") in names


def test_what_was_derived_with_one_key_says_nothing_of_another() -> None:
    """Subkeys are remembered: by key and purpose, and no longer than the key is the same."""
    held, other = ring(k1=KEY, k2=KEY[::-1]), KEY[1:] + KEY[:1]
    for kid in ("k2", "k1", "k2", "k1"):
        alone = ring(**{kid: KEY if kid == "k1" else KEY[::-1]})
        assert held.derive(kid, "vault-token", "lease") == alone.derive(kid, "vault-token", "lease")
    held.adopt(ring(k1=other))
    assert held.derive("k1", "vault-token", "lease") == ring(k1=other).derive("k1", "vault-token", "lease")


def test_derived_names_never_change() -> None:
    """A new release must find the credentials that an older one minted."""
    name = ring().derive("k1", "vault-token", "installation", "lease", b"nonce")
    assert name.hex() == "8e31a200c2b766892d6ef518b35dd823f0388ee9701df27a0405dd3bae3b0399"
    assert hash_handle("abc").hex() == "25f5da3c048684fae03f6850f47076c7997aa5c618fd052bae84f19a11ccf923"


def test_a_key_that_is_not_in_the_ring_derives_nothing() -> None:
    with pytest.raises(KeyError):
        ring().derive("gone", "vault-token")


def test_fingerprints_tell_keys_apart_and_reveal_none() -> None:
    prints = ring(k1=KEY, k2=KEY[::-1]).fingerprints
    assert len(set(prints.values())) == 2
    assert all(KEY.hex()[:16] not in shown for shown in prints.values())
    assert prints["k1"] == ring().fingerprints["k1"]


def test_a_handle_carries_128_bits() -> None:
    assert handle_of(b"\0" * 32) == "a" * 26
    assert handle_of(KEY) != handle_of(KEY[:15] + b"\xff" + KEY[16:])


def test_a_generated_file_is_private_and_loads_again(tmp_path: Path) -> None:
    path = tmp_path / "mint.key"
    made = generate(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load(path).fingerprints == made.fingerprints
    with pytest.raises(FileExistsError):  # a mint key that is lost orphans every live credential
        generate(path)
    assert load(path).fingerprints == made.fingerprints


def test_the_last_key_is_current_and_older_ones_still_derive(tmp_path: Path) -> None:
    loaded = load(write(tmp_path / "key", f"old:{KEY.hex()}\nnew:{KEY[::-1].hex()}\n"))
    assert loaded.current == "new"
    assert loaded.derive("old", "p") == ring(old=KEY).derive("old", "p")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key"),
        ("k1", ":1: not a"),
        (f"k1:{KEY.hex()[:-2]}", ":1: not a"),
        (f"k1:{KEY.hex()}00", ":1: not a"),
        (f"k1:{'zz' * 32}", ":1: not a"),
        (f":{KEY.hex()}", ":1: not a"),
        (f"k-1:{KEY.hex()}", ":1: not a"),
        (f"k1:{KEY.hex()}\nk1:{KEY[::-1].hex()}", ":2: not a"),
    ],
)
def test_a_malformed_file_is_refused_without_quoting_it(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load(write(tmp_path / "key", text))
    assert KEY.hex()[:16] not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o611])
def test_a_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="chmod 600"):
        load(write(tmp_path / "key", f"k1:{KEY.hex()}", mode))


def test_a_missing_or_binary_file_is_one_clear_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist; restore it.*docs/recovery.md"):
        load(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "binary").chmod(0o600)
    with pytest.raises(ConfigError, match="is not text"):
        keyring.load(tmp_path / "binary")


def test_a_rotated_key_is_current_and_the_older_ones_still_find_what_they_named(tmp_path: Path) -> None:
    path = tmp_path / "mint.key"
    first = generate(path)
    second = keyring.rotate(path)
    third = keyring.rotate(path)
    assert list(third.fingerprints) == [first.current, second.current, third.current]
    assert third.derive(first.current, "x") == first.derive(first.current, "x")
    assert load(path).current == third.current
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["mint.key"]


def test_a_dropped_key_is_gone_and_the_current_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "mint.key"
    first, second = generate(path), keyring.rotate(path)
    assert list(keyring.drop(path, [first.current, second.current]).fingerprints) == [second.current]


def test_a_ring_in_use_takes_over_a_rotated_file(tmp_path: Path) -> None:
    path = tmp_path / "mint.key"
    held = generate(path)
    old = held.current
    held.adopt(keyring.rotate(path))
    assert held.current != old
    assert set(held.fingerprints) == {old, held.current}


def test_a_systemd_credential_is_read_whatever_its_group_and_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "stepcred-mint-key", f"k1:{KEY.hex()}\n", mode=0o440)
    with pytest.raises(ConfigError, match="can be read by others"):
        load(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load(path).current == "k1"
    for change in (keyring.rotate, lambda file: keyring.drop(file, ["k1"])):
        with pytest.raises(ConfigError, match="read-only"):
            change(path)
    path.chmod(0o444)
    with pytest.raises(ConfigError, match="can be read by others"):
        load(path)


_ROTATE = "import sys; from pathlib import Path; from broker import keyring; keyring.rotate(Path(sys.argv[1]))"


def test_keys_that_are_rotated_at_once_are_all_kept(tmp_path: Path) -> None:
    path, link = tmp_path / "mint.key", tmp_path / "link" / "mint.key"
    link.parent.mkdir()
    link.symlink_to(path)
    first = generate(path)
    argv = [sys.executable, "-c", _ROTATE]
    running = [subprocess.Popen([*argv, str(one)]) for one in (path, link) * 4]
    assert [one.wait(timeout=60) for one in running] == [0] * 8
    assert len(load(path).fingerprints) == 9
    assert first.current in load(path).fingerprints


def test_a_rotation_waits_for_another_that_has_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mint.key"
    generate(path)
    with process.alone_with(path):
        other = threading.Thread(target=keyring.rotate, args=(path,))
        other.start()
        other.join(timeout=0.3)
        assert other.is_alive()
        assert len(load(path).fingerprints) == 1
    other.join(timeout=10)
    assert len(load(path).fingerprints) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes the files of others")
def test_a_key_file_that_root_rotates_or_prunes_stays_the_daemons(tmp_path: Path) -> None:
    path = tmp_path / "mint.key"
    first = generate(path)
    os.chown(path, 12345, 23456)
    keyring.rotate(path)
    keyring.drop(path, [first.current])
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)
