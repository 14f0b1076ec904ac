"""Secrets live in this process's memory, and are to stay there."""

from __future__ import annotations

import ctypes
import resource

_SET_DUMPABLE = 4  # prctl


def keep_private() -> None:
    """No core file, and no look into our memory for other processes of the same user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keep_ours_private()


def keep_ours_private() -> None:
    """The same for us alone: a child that we start has its core files, and may be looked into."""
    ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)
