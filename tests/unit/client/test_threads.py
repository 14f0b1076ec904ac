"""Threads that are used again: one for each thing under way, none for what is over, none from before a fork."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

import stepcred
from stepcred import _threads
from tests.fakes.broker_server import FakeBroker


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of background threads that were started. None is left of earlier tests, and none afterwards."""
    eventually(lambda: not background())
    monkeypatch.setattr(_threads, "LINGER", 0.2)
    names: list[str] = []
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("stepcred-"):
            names.append(thread.name)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    yield names
    eventually(lambda: not background())


def background() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("stepcred-")]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, background()
        time.sleep(0.01)


def idle() -> None:
    """Until nobody works."""
    eventually(lambda: len(_threads._idle) == len(background()))


def test_steps_one_after_the_other_need_one_thread(
    fake: FakeBroker, environ: dict[str, str], started: list[str]
) -> None:
    for number in range(3):
        with stepcred.connect() as broker, broker.step(run=str(number), scopes=["orders-read"]) as step:
            eventually(lambda: "stepcred-heartbeat" in background())
            step.issue("orders-read")
        idle()
    assert started == ["stepcred-heartbeat"]


def test_what_hangs_holds_up_nobody(started: list[str]) -> None:
    done, release = threading.Event(), threading.Event()
    _threads.run(release.wait, name="stepcred-a")  # type: ignore[arg-type]
    _threads.run(done.set, name="stepcred-b")
    assert done.wait(10)
    eventually(lambda: sorted(background()) == ["stepcred-a", "stepcred-idle"])
    release.set()
    assert started == ["stepcred-a", "stepcred-b"]


def test_many_at_once_all_run_once(started: list[str]) -> None:
    """More than are idle, from several threads, again and again while the idle ones end."""
    done: list[int] = []

    def call() -> None:
        for _ in range(200):
            _threads.run(lambda: done.append(1), name="stepcred-x")

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    eventually(lambda: len(done) == 800)
    idle()
    assert len(done) == 800


def test_none_is_taken_that_is_just_ending(monkeypatch: pytest.MonkeyPatch, started: list[str]) -> None:
    monkeypatch.setattr(_threads, "LINGER", 0.0005)
    done: list[int] = []
    for number in range(100):
        _threads.run(lambda: done.append(1), name="stepcred-x")
        eventually(lambda number=number: len(done) == number + 1)  # type: ignore[misc]
        time.sleep(0.0005)


def test_nothing_of_a_step_that_is_over_is_held(monkeypatch: pytest.MonkeyPatch, started: list[str]) -> None:
    monkeypatch.setattr(_threads, "LINGER", 2.0)  # else it might be over before we look

    class Secret:
        def work(self) -> None:
            pass

    secret = Secret()
    gone = weakref.ref(secret)
    _threads.run(secret.work, name="stepcred-x")
    idle()
    del secret
    gc.collect()
    assert gone() is None


def test_a_child_has_threads_of_its_own() -> None:
    program = (
        "import os, threading, time\n"
        "from stepcred import _threads\n"
        "_threads.run(lambda: None, name='x')\n"
        "while not _threads._idle: time.sleep(0.01)\n"
        "if (child := os.fork()) == 0:\n"
        "    done = threading.Event()\n"
        "    _threads.run(done.set, name='x')\n"
        "    os._exit(0 if done.wait(5) else 1)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=30).returncode == 0
