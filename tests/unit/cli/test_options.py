"""A file with a token in it, or with something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from broker import keyring
from broker.cli.options import operator_token, read_token
from broker.config import load
from broker.errors import ConfigError
from tests.support.doors import door


def file(folder: Path, raw: bytes, mode: int = 0o600) -> Path:
    path = folder / "token"
    path.touch(mode=mode)
    path.chmod(mode)
    path.write_bytes(raw)
    return path


def test_a_token_is_read_with_a_line_break_at_its_end(tmp_path: Path) -> None:
    read = operator_token(file(tmp_path, b"hvs.CAES-x_1\n"))
    assert read is not None
    assert read.reveal() == "hvs.CAES-x_1"
    assert operator_token(None) is None


@pytest.mark.parametrize(
    "raw", [b"s.one\ns.two", b"s.one\x00", b"s.o\x1bne", b"s.o ne", b"s.on\xc3\xa9", b"s.one\r\n#"]
)
def test_what_cannot_be_sent_is_one_clear_problem_that_quotes_nothing(tmp_path: Path, raw: bytes) -> None:
    for read in (operator_token, lambda path: read_token("--token-file", path)):
        with pytest.raises(ConfigError, match="holds more than a token") as caught:
            read(file(tmp_path, raw))
        assert "s.o" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "mode", "told"),
    [
        (b" \n", 0o600, "is empty"),
        (b"\xff\xfe", 0o600, "is not text"),
        (b"s.one", 0o640, "run chmod 600"),
    ],
)
def test_an_operators_token_is_private_and_there(tmp_path: Path, raw: bytes, mode: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        operator_token(file(tmp_path, raw, mode))


def test_a_folder_is_no_token(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        read_token("--token-file", tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        read_token("--token-file", tmp_path / "nowhere")


@pytest.mark.parametrize(
    "use",
    [
        keyring.load,
        door,
        lambda path: read_token("--token-file", path),
        lambda path: load(path, {}),
    ],
)
def test_a_file_that_is_not_there_is_told_without_pythons_words(tmp_path: Path, use: Callable[[Path], object]) -> None:
    with pytest.raises(ConfigError, match="does not exist") as missing:
        use(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is a folder; name a file") as folder:
        use(tmp_path)
    for caught in (missing, folder):
        assert "Error" not in str(caught.value)
