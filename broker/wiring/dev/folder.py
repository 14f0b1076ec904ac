"""A private folder that goes with the process. What a killed one left behind, the next one removes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "stepcred-dev-"
_LOCK = "alive.lock"  # held as long as the process lives, however it ends


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Ours alone (0700), under $TMPDIR. Raises OSError."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    being_made = folder / f"{_LOCK}.new"  # held before it has its name: whoever sweeps just now must not get it first
    held = os.open(being_made, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        being_made.rename(folder / _LOCK)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def sweep() -> None:
    """Remove the folders of dev brokers of this user that are no more."""
    for folder in _folders():
        with _lock_of(folder) as held:
            if held is False:
                shutil.rmtree(folder, ignore_errors=True)


def living() -> list[Path]:
    """The folders of this user's dev brokers that run now."""
    found = []
    for folder in _folders():
        with _lock_of(folder) as held:
            if held:
                found.append(folder)
    return found


def _folders() -> list[Path]:
    """Of this user: /tmp is everybody's."""
    found = []
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        with contextlib.suppress(OSError):
            held = folder.lstat()
            if held.st_uid == os.geteuid() and folder.is_dir() and not folder.is_symlink():
                found.append(folder)
    return found


@contextlib.contextmanager
def _lock_of(folder: Path) -> Iterator[bool | None]:
    """Does another process hold it? None: it has no lock, so that it is just being made, or is none of ours."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield None
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = False
    except OSError:
        held = True
    try:
        yield held
    finally:
        os.close(lock)
