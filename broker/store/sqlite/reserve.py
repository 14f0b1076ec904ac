"""Room kept for the ends of leases: on a full disk minting stops, revoking goes on (DESIGN section 9)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from broker.log import get_logger

log = get_logger(__name__)

# The write-ahead log is checkpointed at 1,000 pages of 4 KiB; as much again for the journal, 1 KiB per record.
SIZE = 8 << 20
LOW = 1 << 20  # bytes free: more than a commit of many operations takes


class Reserve:
    """A file beside the database, given back to the disk in need. It stays when the daemon stops."""

    def __init__(self, database: Path, size: int = SIZE) -> None:
        self._path = database.with_name(database.name + "-reserve")
        self._size = size
        self.held = False

    def look(self) -> bool:
        """Before each commit. Returns whether it is held; without it nothing new may begin.

        It is given back while a commit still fits, and made where there is room for it and as much again.
        """
        free = self._free()
        if self.held and free < min(LOW, self._size // 4):
            self.give_back()
        elif not self.held and (self._whole() or free >= 2 * self._size):
            self.held = self._make()
        return self.held

    def give_back(self) -> bool:
        """The disk is full: make room. True when that made any."""
        self.held = False
        try:
            self._path.unlink()
        except OSError:
            return False
        log.error("the disk is full: no new steps and leases until there is room; ends go on", reserve=str(self._path))
        return True

    def needed(self) -> bool:
        """Is there less room than the reserve itself?"""
        return self._free() < self._size

    def _whole(self) -> bool:
        try:
            return self._path.stat().st_blocks * 512 >= self._size
        except OSError:
            return False

    def _free(self) -> int:
        try:
            found = os.statvfs(self._path.parent)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize

    def _make(self) -> bool:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self._size)
            finally:
                os.close(fd)
        except OSError:  # a limit that statvfs does not tell
            with contextlib.suppress(OSError):  # a folder in its place, read-only ground: no reserve, no hang
                self._path.unlink(missing_ok=True)
            return False
        return True
