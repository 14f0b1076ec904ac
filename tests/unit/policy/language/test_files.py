"""Where a map's files come from, and what is not read."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker.policy.language.files import MAX_BYTES, Folder, Memory, NotTrusted, Remembered, beside, why_not


def test_a_folder_reads_regular_files_a_little_beyond_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"x" * (MAX_BYTES + 100))
    assert len(Folder(path=tmp_path).read("a.yaml")) == MAX_BYTES + 1
    with pytest.raises(FileNotFoundError):
        Folder(path=tmp_path).read("b.yaml")


@pytest.mark.timeout(10)
def test_a_pipe_in_a_file_s_place_stops_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "team.yaml")
    with pytest.raises(NotTrusted, match="not a regular file"):
        Folder(path=tmp_path).read("team.yaml")
    with pytest.raises(NotTrusted, match="not a regular file"):
        Folder(path=Path("/dev")).read("zero")


def test_a_folder_in_a_file_s_place_is_told_as_one_and_nothing_stays_open(tmp_path: Path) -> None:
    (tmp_path / "team.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - as the system names them
    for _ in range(50):
        with pytest.raises(IsADirectoryError) as told:
            Folder(path=tmp_path).read("team.yaml")
        with pytest.raises(NotTrusted):
            Folder(path=tmp_path).read("pipe.yaml")
    assert len(os.listdir("/proc/self/fd")) == len(before)  # noqa: PTH208
    assert why_not(told.value) == "is a folder; name a file"


def test_a_file_that_everybody_may_write_is_believed_only_without_guard(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("x")
    path.chmod(0o666)
    assert Folder(path=tmp_path).read("a.yaml") == b"x"
    with pytest.raises(NotTrusted, match="chmod o-w"):
        Folder(path=tmp_path, guarded=True).read("a.yaml")


@pytest.mark.parametrize(
    ("open_folder", "mode", "trusted"),
    [
        ("names", 0o777, False),
        ("files", 0o777, False),
        ("names", 0o703, False),
        ("names", 0o1777, True),
        ("files", 0o1777, True),
        ("names", 0o775, True),
    ],
)
def test_a_file_that_everybody_may_replace_is_believed_only_without_guard(
    tmp_path: Path,
    open_folder: str,
    mode: int,
    trusted: bool,  # noqa: FBT001
) -> None:
    for folder in ("names", "files"):
        (tmp_path / folder).mkdir(mode=0o755)
    (tmp_path / "files" / "a.yaml").write_text("x")
    (tmp_path / "names" / "a.yaml").symlink_to("../files/a.yaml")
    (tmp_path / open_folder).chmod(mode)
    assert Folder(path=tmp_path).read("names/a.yaml") == b"x"
    guarded = Folder(path=tmp_path, guarded=True)
    if trusted:
        assert guarded.read("names/a.yaml") == b"x"
        return
    with pytest.raises(NotTrusted, match="is in a folder that everybody can write to; run chmod o-w"):
        guarded.read("names/a.yaml")


def test_a_folder_that_is_mounted_read_only_is_writable_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text("x")
    tmp_path.chmod(0o777)  # as a ConfigMap's
    with pytest.raises(NotTrusted):
        Folder(path=tmp_path, guarded=True).read("a.yaml")
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert Folder(path=tmp_path, guarded=True).read("a.yaml") == b"x"


def test_a_file_that_is_not_there_is_told_as_such_with_guard_too(tmp_path: Path) -> None:
    for name in ("a.yaml", "nowhere/a.yaml"):
        with pytest.raises(FileNotFoundError):
            Folder(path=tmp_path, guarded=True).read(name)


def test_what_was_read_stays_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("first")
    seen = Remembered(files=Folder(path=tmp_path))
    assert seen.read("a.yaml") == b"first"
    path.write_text("second")
    assert seen.read("a.yaml") == b"first"
    assert seen.contents == {"a.yaml": b"first"}


def test_memory_knows_what_it_was_given() -> None:
    files = Memory(contents={"a.yaml": b"x"}, label="HEAD:")
    assert (files.read("a.yaml"), files.shown("a.yaml")) == (b"x", "HEAD:a.yaml")
    with pytest.raises(FileNotFoundError):
        files.read("b.yaml")


@pytest.mark.parametrize(
    ("name", "reference", "found"),
    [
        ("map.yaml", "base.yaml", "base.yaml"),
        ("envs/prod.yaml", "../base.yaml", "base.yaml"),
        ("envs/prod.yaml", "teams/a.yaml", "envs/teams/a.yaml"),
        ("map.yaml", "../base.yaml", "../base.yaml"),
        ("map.yaml", "./a/../b.yaml", "b.yaml"),
    ],
)
def test_a_reference_is_relative_to_its_file(name: str, reference: str, found: str) -> None:
    assert beside(name, reference) == found


@pytest.mark.parametrize("reference", ["", "/etc/passwd", "a//b", "a\\b", "a\nb", "a\x00b", "x" * 513, "a/"])
def test_what_is_no_reference(reference: str) -> None:
    with pytest.raises(ValueError, match="expected the path of a file"):
        beside("map.yaml", reference)
