from __future__ import annotations

import fcntl
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from broker.wiring.dev.folder import PREFIX, living, private_folder, sweep

HOLDS = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from broker.wiring.dev.folder import private_folder
with private_folder() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_is_ours_alone_and_goes(temporary: Path) -> None:
    with private_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert living() == [folder]
    assert list(temporary.iterdir()) == []


def test_goes_when_something_fails(temporary: Path) -> None:
    with pytest.raises(NotADirectoryError), private_folder() as folder:
        (folder / "alive.lock" / "er").mkdir()
    assert list(temporary.iterdir()) == []


def test_the_next_one_removes_what_a_killed_one_left(temporary: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(temporary)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        sweep()
        assert living() == [left]  # it lives: nobody takes its files
        process.send_signal(signal.SIGKILL)
    assert left.exists()
    with private_folder() as folder:
        assert not left.exists()
        assert living() == [folder]


def test_one_that_is_just_being_made_is_not_taken_for_a_dead_one(monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def another_sweeps_first(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        sweep()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", another_sweeps_first)
    with private_folder() as folder:
        assert folder.exists()
        assert living() == [folder]


def test_nothing_else_is_touched(temporary: Path) -> None:
    own = temporary / "elsewhere"
    own.mkdir()
    (temporary / f"{PREFIX}link").symlink_to(own)
    (own / "alive.lock").touch()
    being_made = temporary / f"{PREFIX}new"
    being_made.mkdir()
    fifo = temporary / f"{PREFIX}fifo"
    fifo.mkdir()
    (fifo / "alive.lock").symlink_to(own / "alive.lock")
    sweep()
    assert own.exists()
    assert being_made.exists()
    assert fifo.exists()
