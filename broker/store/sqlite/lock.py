"""One daemon per database: two would each keep a journal head of their own."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from broker.errors import StoreError


class FileLock:
    """An exclusive flock, held until `release` or the end of the process (also by SIGKILL)."""

    def __init__(self, database: Path) -> None:
        path = database.with_name(database.name + ".lock")
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"lock file {path}: {error.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._fd, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise StoreError(
                f"database {database} is in use by another daemon (process {holder}); one database serves one daemon"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next daemon in. The file stays: removing it would let two in."""
        os.close(self._fd)
