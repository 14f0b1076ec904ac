from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from broker.process import replace_file, sd_notify, watchdog_seconds

_HARDENED = """
import ctypes, os, resource
from broker.process import harden
print(harden(), oct(os.umask(0)), resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


def test_hardening_closes_files_core_dumps_and_memory() -> None:
    done = subprocess.run([sys.executable, "-c", _HARDENED], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[] 0o77 (0, 0) 0\n"


_EVERYWHERE = """
import ctypes, os, resource, threading
from broker.process import harden
harden()
found = []
look = lambda: found.append((resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)))
thread = threading.Thread(target=look); thread.start(); thread.join()
child = os.fork()
if not child:
    look(); os._exit(found[-1] != ((0, 0), 0))
print(found, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_hardening_holds_for_threads_and_forks() -> None:
    done = subprocess.run([sys.executable, "-c", _EVERYWHERE], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[((0, 0), 0)] 0\n"


_TRACED = """
import sys
if sys.argv[1] == "harden":
    from broker.process import harden
    print(*harden(), sep="\\n")
import grpc, ssl, asyncio
with grpc.insecure_channel("127.0.0.1:9") as channel:
    try:
        channel.unary_unary("/s/m")(b"", metadata=(("x-canary", "canary-in-the-metadata"),), timeout=0.5)
    except grpc.RpcError:
        pass
print(ssl.create_default_context().keylog_filename, asyncio.new_event_loop().get_debug())
"""


@pytest.mark.parametrize("how", ["harden", "not"])
def test_libraries_that_are_told_to_trace_by_variables_do_not(tmp_path: Path, how: str) -> None:
    harden = how == "harden"
    told = {"GRPC_TRACE": "all", "GRPC_VERBOSITY": "DEBUG", "PYTHONASYNCIODEBUG": "1"}
    environ = {**os.environ, **told, "SSLKEYLOGFILE": str(tmp_path / "keys")}
    done = subprocess.run(
        [sys.executable, "-c", _TRACED, how],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environ,
    )
    traced = "canary-in-the-metadata" in done.stderr
    assert traced is not harden  # without it they do, or this would show nothing

    lines = done.stdout.splitlines()
    assert lines[-1] == ("None False" if harden else f"{tmp_path / 'keys'} True")
    assert all(any(name in line for line in lines) for name in (*told, "SSLKEYLOGFILE")) is harden


def test_systemd_hears_of_readiness_on_a_real_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        assert sd_notify("READY=1", "STATUS=serving", environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert systemd.recv(100) == b"READY=1\nSTATUS=serving"


def test_systemd_hears_on_an_abstract_socket() -> None:
    name = f"stepcred-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name)
        systemd.settimeout(5)
        assert sd_notify("STOPPING=1", environ={"NOTIFY_SOCKET": "@" + name})
        assert systemd.recv(100) == b"STOPPING=1"


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    assert not sd_notify("READY=1", environ={})
    assert not sd_notify("READY=1", environ={"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert not sd_notify("READY=1", environ={"NOTIFY_SOCKET": "vsock:2:9"})


def test_the_watchdog_is_for_the_process_it_names() -> None:
    assert watchdog_seconds({"WATCHDOG_USEC": "10000000"}) == 10
    assert watchdog_seconds({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}) == 10
    assert watchdog_seconds({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_seconds({"WATCHDOG_USEC": "soon"}) is None
    assert watchdog_seconds({}) is None


def test_a_replaced_file_keeps_its_mode_and_a_link_to_it_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    held, link = tmp_path / "real" / "key", tmp_path / "key"
    held.touch()
    held.chmod(0o640)
    link.symlink_to(held)
    replace_file(link, "new")
    assert link.readlink() == held
    assert held.read_text() == "new"
    assert stat.S_IMODE(held.stat().st_mode) == 0o640
    assert list((tmp_path / "real").iterdir()) == [held]


def test_a_new_file_is_private(tmp_path: Path) -> None:
    replace_file(tmp_path / "key", "new")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_what_cannot_be_written_leaves_the_old_content_and_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    path.write_text("old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes the files of others")
def test_a_file_that_root_replaces_stays_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    os.chown(path, 12345, 23456)
    path.chmod(0o600)
    replace_file(path, "new")
    held = path.stat()
    assert (held.st_uid, held.st_gid, stat.S_IMODE(held.st_mode)) == (12345, 23456, 0o600)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
@pytest.mark.parametrize(
    ("owner", "mode", "code"), [((12345, 0), 0o600, 0), ((12345, 0), 0o640, 1), ((0, 12345), 0o600, 1)]
)
def test_whoever_may_not_give_a_file_away_does_not_replace_it(owner: tuple[int, int], mode: int, code: int) -> None:
    program = "import os, sys; from pathlib import Path; from broker.process import replace_file\n"
    program += "os.setgroups([]); os.setgid(12345); os.setuid(12345); replace_file(Path(sys.argv[1]), 'new')"
    with tempfile.TemporaryDirectory() as made:  # tmp_path is closed to others
        folder = Path(made)
        folder.chmod(0o777)
        path = folder / "key"
        path.write_text("old")
        os.chown(path, *owner)
        path.chmod(mode)
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, timeout=30, check=False)
        assert done.returncode == code
        assert path.read_text() == ("old" if code else "new")
        assert list(folder.iterdir()) == [path]
