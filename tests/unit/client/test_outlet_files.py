"""Private files: in memory, nobody else's, replaced at one stroke."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepcred._outlets import PrivateFile, PrivateFolder, Unsafe, _files


@pytest.fixture
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the kernel would say is on disk, wherever the tests run."""
    (tmp_path / "disk").mkdir(mode=0o700)
    device = tmp_path.stat().st_dev
    monkeypatch.setattr(
        _files, "_MOUNTS", mounts(tmp_path, f"22 1 {os.major(device)}:{os.minor(device)} / / rw - ext4 /dev/vda rw")
    )
    return tmp_path / "disk"


def mounts(folder: Path, *lines: str) -> Path:
    made = folder / "mountinfo"
    made.write_text("".join(f"{line}\n" for line in lines))
    return made


def names_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def test_it_is_ours_alone_whatever_the_umask(memory: Path) -> None:
    old = os.umask(0)
    try:
        PrivateFile(memory / "folder" / "file").write(b"s3cret")
    finally:
        os.umask(old)
    assert stat.S_IMODE((memory / "folder").stat().st_mode) == 0o700
    assert stat.S_IMODE((memory / "folder" / "file").stat().st_mode) == 0o600
    assert (memory / "folder" / "file").read_bytes() == b"s3cret"


def test_readers_never_see_half_of_it(memory: Path) -> None:
    file = PrivateFile(memory / "file")
    contents = {bytes([sign]) * 100_000 for sign in b"ab"}
    file.write(min(contents))
    done = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not done.is_set():
            seen.add((memory / "file").read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        file.write(sorted(contents)[number % 2])
    done.set()
    reader.join()
    assert seen <= contents
    assert names_in(memory) == ["file"]


def test_removed_twice_is_removed(memory: Path) -> None:
    file = PrivateFile(memory / "folder" / "file")
    file.write(b"x")
    file.remove()
    file.remove()
    (memory / "folder").rmdir()
    file.remove()


def test_on_disk_only_when_allowed(disk: Path) -> None:
    with pytest.raises(Unsafe, match=r"use /dev/shm or \$XDG_RUNTIME_DIR, or --allow-disk"):
        PrivateFile(disk / "new" / "file").write(b"x")
    assert not (disk / "new").exists()
    PrivateFile(disk / "file", allow_disk=True).write(b"x")
    assert (disk / "file").read_bytes() == b"x"


def test_a_folder_that_others_may_write_to_is_refused(memory: Path) -> None:
    for mode in (0o777, 0o1777, 0o770, 0o702):
        memory.chmod(mode)
        with pytest.raises(Unsafe, match="others may write"):
            PrivateFile(memory / "file").write(b"x")
    memory.chmod(0o755)
    PrivateFile(memory / "file").write(b"x")


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
def test_a_folder_of_somebody_else_is_refused(memory: Path) -> None:
    os.chown(memory, 65534, 65534)
    with pytest.raises(Unsafe, match="others may write"):
        PrivateFile(memory / "file").write(b"x")


def test_links_are_refused_and_nothing_is_written_through_them(memory: Path) -> None:
    (memory / "real").mkdir(mode=0o700)
    (memory / "link").symlink_to(memory / "real")
    with pytest.raises(Unsafe, match="link"):
        PrivateFile(memory / "link" / "file").write(b"x")
    (memory / "target").symlink_to(memory / "real" / "victim")
    with pytest.raises(Unsafe, match="plain file"):
        PrivateFile(memory / "target").write(b"x")
    assert not names_in(memory / "real")


def test_a_link_put_there_between_look_and_write_is_replaced_not_followed(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (memory / "victim").write_bytes(b"untouched")
    replace = os.replace

    def swapped(*arguments: Any, **folders: Any) -> None:
        (memory / "file").symlink_to(memory / "victim")
        replace(*arguments, **folders)

    monkeypatch.setattr(os, "replace", swapped)
    PrivateFile(memory / "file").write(b"s3cret")
    assert (memory / "victim").read_bytes() == b"untouched"
    assert not (memory / "file").is_symlink()


def test_a_folder_swapped_between_look_and_write_gets_nothing(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = memory / "folder", memory / "elsewhere"
    folder.mkdir(mode=0o700)
    elsewhere.mkdir(mode=0o777)
    look = _files.filesystem_of

    def swapped(device: int) -> str:
        folder.rename(memory / "moved")
        folder.symlink_to(elsewhere)
        return look(device)

    monkeypatch.setattr(_files, "filesystem_of", swapped)
    PrivateFile(folder / "file").write(b"s3cret")
    assert not names_in(elsewhere)
    assert names_in(memory / "moved") == ["file"]


def test_a_failed_write_leaves_the_old_content_and_nothing_else(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PrivateFile(memory / "file")
    file.write(b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        file.write(b"new")
    assert names_in(memory) == ["file"]
    assert (memory / "file").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (["25 24 7:9 / /dev/shm rw,relatime - tmpfs tmpfs rw"], "tmpfs"),
        (["25 24 7:9 / /a rw shared:1 master:2 - ramfs none rw", "26 25 7:8 / /a rw - ext4 /dev/vda rw"], "ramfs"),
        (["25 24 7:9 / /a rw - tmpfs none rw", "26 1 7:9 /x /b rw - tmpfs none rw"], "tmpfs"),  # bound elsewhere too
        (["25 24 7:8 / /dev/shm rw - tmpfs tmpfs rw"], ""),  # another one
        (["25 24 7:9 / /dev/shm rw - tmpfs tmpfs rw", "26 24 7:9 / /x rw - ext4 /dev/vda rw"], ""),  # contradiction
        (["nonsense", ""], ""),
        ([], ""),
    ],
)
def test_the_kernel_says_what_a_folder_is_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], kind: str
) -> None:
    monkeypatch.setattr(_files, "_MOUNTS", mounts(tmp_path, *lines))
    assert _files.filesystem_of(os.makedev(7, 9)) == kind
    monkeypatch.setattr(_files, "_MOUNTS", tmp_path / "nothing")
    assert _files.filesystem_of(os.makedev(7, 9)) == ""


def test_a_private_folder_is_in_memory_and_goes_with_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    folder = PrivateFolder()
    assert folder.path.is_relative_to("/dev/shm")
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    folder.file("a").write(b"x")
    folder.file("b")
    folder.remove()
    folder.remove()
    assert not folder.path.exists()


def test_the_runtime_folder_comes_first_and_disk_only_when_allowed(
    memory: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(disk))
    with pytest.raises(Unsafe, match="no place in memory"):
        PrivateFolder()
    assert not names_in(disk)
    folder = PrivateFolder(allow_disk=True)
    folder.file("a").write(b"x")
    assert folder.path.parent == disk
    monkeypatch.undo()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(memory))
    assert PrivateFolder().path.parent == memory
