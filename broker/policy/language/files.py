"""Where a map's files come from: a folder, or memory (a git revision, the copy that the database keeps).

A file is named relative to the folder of the root file, with `/`, and `..` where it lies beside that folder.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from broker.errors import unreadable

MAX_BYTES = 1024 * 1024  # of one file
MAX_NAME = 512  # characters of a file's name


class NotTrusted(OSError):
    """A file that is there, and must not be believed. Its text is for people."""


class Files(Protocol):
    """Read-only, by name."""

    def read(self, name: str) -> bytes:
        """At most MAX_BYTES + 1 bytes. Raises OSError, NotTrusted among them."""
        ...

    def shown(self, name: str) -> str:
        """How people call it, in positions."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """On disk.

    `guarded`: whoever may write the map decides who gets what, so a file that everybody may write or replace
    is refused.
    """

    path: Path
    guarded: bool = False

    def read(self, name: str) -> bytes:
        """As `Files`."""
        # Not blocking: a team that puts a pipe in its file's place must not stop everybody's reloads.
        if self.guarded:
            self._must_stay(name)
        opened = os.open(self.path / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._must_be_trusted(os.fstat(opened).st_mode)
            with os.fdopen(opened, "rb", closefd=False) as file:
                return file.read(MAX_BYTES + 1)
        finally:
            os.close(opened)  # `fdopen` leaves it open when it refuses

    def _must_stay(self, name: str) -> None:
        """Whoever may write a folder may put another file in this one's place; where it is sticky, only in the place of theirs."""
        path = self.path / name
        for folder in {path.parent, Path(os.path.realpath(path)).parent}:
            mode = folder.stat().st_mode
            # The kubelet makes a ConfigMap's folder 0777, and mounts it read-only.
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX and not os.statvfs(folder).f_flag & os.ST_RDONLY:
                raise NotTrusted("is in a folder that everybody can write to; run chmod o-w on the folder")

    def _must_be_trusted(self, mode: int) -> None:
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise NotTrusted("is not a regular file")
        if self.guarded and mode & stat.S_IWOTH:
            raise NotTrusted("can be written by everybody; run chmod o-w on it")

    def shown(self, name: str) -> str:
        """The path, as short as it was given."""
        return posixpath.normpath(str(self.path / name))


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Already read. `label` stands before a name in positions."""

    contents: Mapping[str, bytes]
    label: str = ""

    def read(self, name: str) -> bytes:
        """As `Files`."""
        try:
            return self.contents[name][: MAX_BYTES + 1]
        except KeyError:
            raise FileNotFoundError(name) from None

    def shown(self, name: str) -> str:
        """Label and name."""
        return self.label + name


@dataclass(kw_only=True, slots=True)
class Remembered:
    """Reads through, once for each name, and keeps what was read: that is what a map was made of."""

    files: Files
    contents: dict[str, bytes] = field(default_factory=dict)

    def read(self, name: str) -> bytes:
        """As `Files`."""
        if name not in self.contents:
            self.contents[name] = self.files.read(name)
        return self.contents[name]

    def shown(self, name: str) -> str:
        """As `Files`."""
        return self.files.shown(name)


def why_not(error: OSError) -> str:
    """Why a file was not read, for people."""
    return str(error) if isinstance(error, NotTrusted) else unreadable(error)


def beside(name: str, reference: str) -> str:
    """The name of the file that `name` refers to. Raises ValueError for what is no relative path of plain characters."""
    parts = reference.split("/")
    if not reference or len(reference) > MAX_NAME or not reference.isprintable() or "\\" in reference or "" in parts:
        raise ValueError("expected the path of a file, relative to this one, such as teams/payments.yaml")
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), reference))
