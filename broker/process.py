"""What the daemon asks of its operating system: privacy of memory and files, and systemd's readiness protocol."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import os
import resource
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

_PR_SET_DUMPABLE = 4  # linux/prctl.h
MOST_FILES = 1 << 20  # file descriptors; the kernel's own bound of one process, fs.nr_open
# Variables that make a library write what it sends, or the keys of its connections, where nothing redacts it.
_TALKATIVE = {
    "GRPC_TRACE": "gRPC would print what it sends, decrypted",
    "GRPC_VERBOSITY": "gRPC would print more than errors",
    "SSLKEYLOGFILE": "the keys of the connections to Vault and AWS would be written to a file",
    "PYTHONASYNCIODEBUG": "asyncio would print arguments of slow calls",
}
_NOTIFY_TIMEOUT = 1.0  # seconds; a full socket must not hold up the daemon


def harden(environ: MutableMapping[str, str] = os.environ) -> list[str]:
    """Keep minted secrets out of core dumps, other processes' debuggers, new files and libraries' own tracing.

    Call before anything secret is read and before grpc and ssl are used. Returns what could not be done, or was undone,
    for the log. What is not locked into memory: that needs a right (CAP_IPC_LOCK), Python copies strings as it likes,
    and a page that is swapped out is read by root alone; switch swap off, or encrypt it.
    """
    problems = _hush(environ)
    os.umask(0o077)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError):
        problems.append("core dumps could not be switched off")
    if not _set_undumpable():
        problems.append("memory could not be closed to other processes of the same user")
    return problems


def _hush(environ: MutableMapping[str, str]) -> list[str]:
    """Take talkative variables away, from C libraries and children too."""
    found = [name for name in _TALKATIVE if environ.pop(name, "")]
    environ["GRPC_VERBOSITY"] = (
        "ERROR"  # without it, each stranger whose handshake fails gets a line in the log (measured)
    )
    problems = [f"{name} is not obeyed: {_TALKATIVE[name]}" for name in found]
    if sys.flags.dev_mode:
        problems.append("Python's development mode is on (PYTHONDEVMODE or -X dev); do not serve with it")
    return problems


def _set_undumpable() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)


def raise_file_limit() -> int:
    """Take all the file descriptors that the system grants, and return how many this process may open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # then with what there is
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft


def collect_seldom() -> None:
    """Call once everything stands: Python's search for cycles then leaves alone what the start has made, and is seldom.

    By default it looks after each 700 new objects, a few issues: a tenth of their CPU, and a pause of 30 ms now and then
    (measured). What has no cycles, nearly all, is freed at once in any case.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def sd_notify(*assignments: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell systemd, for example `sd_notify("READY=1", "STATUS=serving")` (sd_notify(3)).

    Returns False when nobody listens (not started with Type=notify). Never raises: the daemon works without.
    """
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(_NOTIFY_TIMEOUT)
            channel.connect(address)
            channel.sendall("\n".join(assignments).encode())
    except OSError:
        return False
    return True


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds within which systemd wants a `WATCHDOG=1`; None when it does not watch this process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdigit() and int(microseconds) else None


def credentials_directory(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where systemd puts this service's credentials, read-only; None outside of systemd."""
    return Path(environ["CREDENTIALS_DIRECTORY"]) if environ.get("CREDENTIALS_DIRECTORY") else None


def read_file(path: Path, most: int = 1 << 20) -> bytes:
    """At most `most` bytes of a regular file, and one more when there are more. Raises OSError.

    A pipe that nobody writes to would hold up its reader for ever, and with it the stop.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a file; put one there")
        return file.read(most + 1)


def replace_file(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Either the old content or the new one, whatever happens. Raises OSError.

    A file that is there keeps its owner, group and mode, also when root writes it, and a link goes on leading to it;
    a new one has `mode`.
    """
    path = path.resolve()
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    beside = Path(name)
    try:
        with os.fdopen(fd, "w") as file:
            _take_after(file.fileno(), path, mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path)


def _take_after(fd: int, path: Path, mode: int) -> None:
    """Before anything is written. Whoever may not give a file away may not replace another's."""
    try:
        held = path.stat()
    except FileNotFoundError:
        os.fchmod(fd, mode)
        return
    made, mode = os.fstat(fd), stat.S_IMODE(held.st_mode)
    if (made.st_uid, made.st_gid) != (held.st_uid, held.st_gid):
        try:
            os.fchown(fd, held.st_uid, held.st_gid)
        except PermissionError:
            if made.st_uid != held.st_uid or mode & stat.S_IRWXG:  # of a group without rights nothing depends
                raise
    os.fchmod(fd, mode)


def sync_folder(path: Path) -> None:
    """A new file's name is in its folder. Raises OSError."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Wait until no other process changes this file in this way. Raises OSError.

    The lock is on the folder: the file itself is replaced, and a lock file would be left behind.
    """
    folder = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
