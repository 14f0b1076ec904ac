"""Files that hold a secret: in memory, ours alone, replaced at one stroke."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stepcred._outlets._errors import Unsafe

IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MOUNTS = Path("/proc/self/mountinfo")


class PrivateFile:
    """One file, 0600 unless `mode` says otherwise. `write` and `remove` raise Unsafe for a place that is none for a secret, OSError otherwise.

    The folder must be ours or root's, writable by nobody else, no link, and on tmpfs or ramfs unless `allow_disk`;
    a missing one is made, 0700, or 0750 where the file's group may read. All of it is looked at on the open folder, anew
    each time, and everything is done relative to it: what others do to the path meanwhile changes nothing.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        allow_disk: bool = False,
        mode: int = 0o600,
        group: int | None = None,
    ) -> None:
        self.path = Path(path).absolute()
        self._mode, self._group = mode, group
        self._allow_disk = allow_disk
        self._made_folder = False
        if self.path.name in {"", ".", ".."}:
            raise Unsafe(f"{path}: not the name of a file")

    def check(self) -> None:
        """Whether `write` would take the place, without writing."""
        with self._folder():
            pass
        self._tidy()

    def write(self, data: bytes) -> None:
        """Readers see the old content or the new one, never half of it."""
        with self._folder() as folder:
            temporary = f".{self.path.name[:200]}.{secrets.token_hex(8)}"
            file = os.open(temporary, _NEW, 0o600, dir_fd=folder)
            try:
                with open(file, "wb") as stream:  # noqa: PTH123 (relative to an open folder)
                    self._give(file, self._mode)
                    stream.write(data)
                os.replace(temporary, self.path.name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    def remove(self) -> None:
        """Whatever the name is of by now; a link itself, not what it leads to. Nothing there is fine.

        A folder that was made for it goes too, once it is empty.
        """
        with contextlib.suppress(FileNotFoundError), self._open() as folder:
            os.unlink(self.path.name, dir_fd=folder)
        self._tidy()

    @contextlib.contextmanager
    def _folder(self) -> Iterator[int]:
        """1 the folder itself, not a link. 2 nobody else's. 3 in memory. 4 nothing but a plain file in our place."""
        with self._made() as new, self._open() as folder:  # 1
            if new and self._mode & stat.S_IRGRP:
                self._give(folder, 0o750)
            where, about = self.path.parent, os.fstat(folder)
            if (
                about.st_uid not in {os.geteuid(), 0} or about.st_mode & 0o022
            ):  # 2; a POSIX ACL shows in the group's bits
                raise Unsafe(f"{where}: others may write there; name a folder in it, which is then made for us alone")
            if not self._allow_disk and filesystem_of(about.st_dev) not in IN_MEMORY:  # 3
                raise Unsafe(f"{where}: not in memory; use /dev/shm or $XDG_RUNTIME_DIR, or --allow-disk")
            with contextlib.suppress(FileNotFoundError):  # 4
                there = os.stat(self.path.name, dir_fd=folder, follow_symlinks=False)
                if not stat.S_ISREG(there.st_mode):
                    raise Unsafe(f"{self.path}: there is something else than a plain file; take it away first")
            yield folder

    def _give(self, file: int, mode: int) -> None:
        """Whatever the umask. A folder goes on giving its group to what is made in it, if it has that from above."""
        if self._group is not None:
            os.fchown(file, -1, self._group)
        os.fchmod(file, mode | os.fstat(file).st_mode & stat.S_ISGID)

    @contextlib.contextmanager
    def _made(self) -> Iterator[bool]:
        """Is it new?"""
        new = False
        with contextlib.suppress(FileExistsError):
            self.path.parent.mkdir(mode=0o700)
            new = self._made_folder = True
        try:
            yield new
        except BaseException:
            self._tidy()
            raise

    def _tidy(self) -> None:
        if self._made_folder:
            with contextlib.suppress(OSError):  # not empty: somebody uses it
                self.path.parent.rmdir()
                self._made_folder = False

    @contextlib.contextmanager
    def _open(self) -> Iterator[int]:
        try:
            folder = os.open(self.path.parent, _FOLDER)
        except NotADirectoryError:
            raise Unsafe(f"{self.path.parent}: not a folder, or a link to one; name the folder itself") from None
        try:
            yield folder
        finally:
            os.close(folder)


class PrivateFolder:
    """A new folder of our own, 0700, in $XDG_RUNTIME_DIR or /dev/shm; with `allow_disk` also where temporary files are.

    Raises Unsafe when there is no such place. `remove` takes it away with the files that were asked of it.
    """

    def __init__(self, *, allow_disk: bool = False) -> None:
        self._allow_disk = allow_disk
        self._files: list[PrivateFile] = []
        self.path = self._make()

    def file(self, name: str) -> PrivateFile:
        made = PrivateFile(self.path / name, allow_disk=self._allow_disk)
        self._files.append(made)
        return made

    def remove(self) -> None:
        for file in self._files:
            file.remove()
        with contextlib.suppress(FileNotFoundError):
            self.path.rmdir()

    def _make(self) -> Path:
        places = [place for place in (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm") if place]  # noqa: S108
        for place in [*places, tempfile.gettempdir()] if self._allow_disk else places:
            with contextlib.suppress(OSError):
                if self._allow_disk or filesystem_of(Path(place).stat().st_dev) in IN_MEMORY:
                    return Path(tempfile.mkdtemp(prefix="stepcred-", dir=place))
        raise Unsafe("no place in memory to write to: mount a tmpfs, set XDG_RUNTIME_DIR to it, or use --allow-disk")


def filesystem_of(device: int) -> str:
    """The type of the file system with this st_dev, "" when it is not known.

    By the device, not by the longest mount point: that is the one file system that an open folder is on, whatever is
    mounted over its path.
    """
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    found = set()
    for line in lines:
        mount, separator, about = line.partition(" - ")
        if separator and mount.split(" ")[2] == wanted:
            found.add(about.split(" ")[0])
    return found.pop() if len(found) == 1 else ""
