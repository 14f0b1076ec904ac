from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from broker.process import sd_notify, watchdog_seconds

_HARDENED = """
import ctypes, os, resource
from broker.process import harden
print(harden(), oct(os.umask(0)), resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


def test_hardening_closes_files_core_dumps_and_memory() -> None:
    done = subprocess.run([sys.executable, "-c", _HARDENED], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[] 0o77 (0, 0) 0\n"


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
