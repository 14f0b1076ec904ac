"""Run real servers for a test: free loopback ports, bounded waits, stopped by the pid that was started."""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

POLL_SECONDS = 0.02


# Below those that the system gives to outgoing connections: one of them could take the port before its server does.
PORTS = range(10_000, 32_768)
_given: set[int] = set()


def free_port() -> int:
    """A loopback TCP port that nobody listens on now, and that was not given before."""
    while True:
        port = PORTS[secrets.randbelow(len(PORTS))]  # not `random`, which a property's seed makes the same everywhere
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


def accepts(port: int) -> bool:
    """Does something listen on this loopback port?"""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wait_until(check: Callable[[], bool], *, within: float, what: str) -> None:
    """Poll until `check` holds. Raises TimeoutError after `within` seconds."""
    deadline = time.monotonic() + within
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within:g} s")
        time.sleep(POLL_SECONDS)


def stop(process: subprocess.Popen[bytes], sig: signal.Signals = signal.SIGTERM, *, within: float = 10) -> int:
    """Signal the process, kill it when it does not end `within` seconds, and return its exit code."""
    if process.poll() is None:
        process.send_signal(sig)
        try:
            process.wait(within)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait(within)


@contextlib.contextmanager
def running(
    argv: Sequence[str | os.PathLike[str]],
    *,
    log: Path,
    ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    within: float = 60,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process from ready to stopped; what it prints goes to `log`, whose end is shown when it never gets ready."""
    with log.open("ab") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=env, user=user)

    def ready_or_dead() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{argv[0]} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        return ready()

    try:
        wait_until(ready_or_dead, within=within, what=f"{argv[0]} (log {log})")
        yield process
    finally:
        stop(process, stop_signal)


def allow_files(count: int) -> None:
    """Let this process open so many files, where the system lets it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
