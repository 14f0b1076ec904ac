"""Start the keeper: one, however many call at the same time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from stepcred.cli._aws_process import _client, _place
from stepcred.cli._aws_process._place import Asked, Trouble

BACKLOG = 1024
# What a Python process needs, and nothing that may hold a secret: it lives longer than who started it.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
_KEPT_PREFIXES = ("GRPC_", "LD_LIBRARY_PATH")


def start(asked: Asked, base: str) -> socket.socket:
    """A connection to it, answered once it is up. Raises Trouble."""
    try:
        with locked(base):
            if (other := _client.connect(base)) is not None:
                return other
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{base}.sock")  # noqa: PTH108 (of one that was killed)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                listener.bind(f"{base}.sock")
                listener.listen(BACKLOG)
                _spawn(asked, base, listener)
                # Ours before the lock is let go: it is in the queue, whatever becomes of the keeper.
                made = _client.connect(base)
    except OSError as error:
        raise Trouble(_client.UNAVAILABLE, f"cannot start the keeper in {base}: {error.strerror}") from None
    if made is None:
        raise Trouble(_client.UNAVAILABLE, f"the keeper did not start; see {base}.log")
    return made


@contextmanager
def locked(base: str) -> Iterator[None]:
    """Nobody else starts or ends a keeper meanwhile. Raises OSError."""
    lock = os.open(f"{base}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _spawn(asked: Asked, base: str, listener: socket.socket) -> None:
    """Out of our session, without anything of ours open: an SDK waits until nobody has its pipes any more."""
    kept = {n: v for n, v in os.environ.items() if n in _KEPT or n.startswith(_KEPT_PREFIXES)} | _place.settings()
    kept.pop("STEPCRED_STEP_HANDLE", None)
    log = os.open(f"{base}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(  # noqa: S603 (our own program)
            # -P: what lies in the folder of whoever calls is not imported.
            [sys.executable, "-P", "-m", "stepcred.cli._aws_process._keeper", str(listener.fileno()), base],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=kept,
            cwd="/",
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    finally:
        os.close(log)
    workflow, run, step = asked.names
    given = {
        "scopes": asked.scopes,
        "workflow": workflow,
        "run": run,
        "step": step,
        "handle": asked.handle,
        "wait_broker": asked.wait_broker,
    }
    if process.stdin is None:
        raise RuntimeError("a pipe was asked for")
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # it has ended: its log says why
        pipe.write(json.dumps(given).encode())
