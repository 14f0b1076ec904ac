"""Heartbeats, sync and asyncio: what they claim, what they survive, what they notice."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import grpc
import pytest

import stepcred
from stepcred import _step_core
from tests.fakes.broker_server import DENIED, STEP_ENDED, UNAVAILABLE, FakeBroker, Refusal


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str]) -> None:
    """Every test here has the broker's settings."""


def eventually(condition: Callable[[], bool], timeout: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_an_issued_credential_is_claimed_at_once(fake: FakeBroker) -> None:
    fake.heartbeat = 300.0
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        credential = step.issue("orders-read")
        assert fake.wait_for(lambda: credential.lease.lease_id in fake.only_step().claimed)


def test_heartbeats_go_on_at_the_brokers_interval(fake: FakeBroker) -> None:
    fake.heartbeat = 0.05
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]):
        assert fake.wait_for(lambda: len(fake.requests("Heartbeat")) >= 3)


def test_heartbeats_survive_a_restart_of_the_broker(fake: FakeBroker) -> None:
    fake.heartbeat = 0.05
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        assert fake.wait_for(lambda: len(fake.requests("Heartbeat")) >= 1)
        fake.stop()
        time.sleep(0.3)
        before = len(fake.requests("Heartbeat"))
        fake.start()
        assert fake.wait_for(lambda: len(fake.requests("Heartbeat")) >= before + 2)
        assert step.alive


def test_heartbeats_survive_unavailable_and_refusals(fake: FakeBroker) -> None:
    fake.heartbeat = 0.05
    fake.script("Heartbeat", UNAVAILABLE, Refusal(code=grpc.StatusCode.UNAUTHENTICATED, reason="CERTIFICATE_EXPIRED"))
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        assert fake.wait_for(lambda: len(fake.requests("Heartbeat")) >= 4)
        assert step.alive


def test_heartbeats_that_were_refused_for_good_are_not_repeated(fake: FakeBroker) -> None:
    fake.heartbeat = 0.05
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        fake.script("Heartbeat", DENIED)
        assert eventually(lambda: not step.alive)
        sent = len(fake.requests("Heartbeat"))
        time.sleep(0.3)
        assert len(fake.requests("Heartbeat")) == sent
        with pytest.raises(stepcred.StepEnded):
            step.issue("orders-read")
    assert fake.only_step().ended  # asked for once all the same: giving back is never wrong


@pytest.mark.parametrize("reason", ["INVALID_ARGUMENT", "INTERNAL", "FROZEN"])
def test_a_refusal_that_may_pass_keeps_no_step_from_being_heard(fake: FakeBroker, reason: str) -> None:
    fake.heartbeat = 0.05
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        fake.script("Heartbeat", *[Refusal(code=grpc.StatusCode.FAILED_PRECONDITION, reason=reason)] * 2)
        assert fake.wait_for(lambda: len(fake.requests("Heartbeat")) >= 4)
        assert step.alive


def test_a_step_ended_by_the_broker_is_noticed(fake: FakeBroker) -> None:
    fake.heartbeat = 0.05
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        fake.script("Heartbeat", STEP_ENDED)
        assert eventually(lambda: not step.alive)
        with pytest.raises(stepcred.StepEnded):
            step.issue("orders-read")
        assert not fake.requests("IssueCredential")


def test_leases_that_ended_are_no_longer_held(fake: FakeBroker) -> None:
    fake.heartbeat = 0.05
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        credential = step.issue("orders-read")
        assert fake.wait_for(lambda: bool(fake.only_step().claimed))
        fake.only_step().leases.clear()
        assert fake.wait_for(lambda: not list(fake.requests("Heartbeat")[-1].held_lease_ids))
        assert credential.lease.lease_id in fake.only_step().claimed


def test_the_thread_ends_with_the_step(fake: FakeBroker) -> None:
    fake.heartbeat = 300.0
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]):
        assert eventually(lambda: any(thread.name == "stepcred-heartbeat" for thread in threading.enumerate()))
    assert eventually(lambda: all(thread.name != "stepcred-heartbeat" for thread in threading.enumerate()))


def test_a_hanging_heartbeat_does_not_hold_the_exit(fake: FakeBroker) -> None:
    fake.heartbeat = 0.05
    fake.delay["Heartbeat"] = 4.0
    program = (
        "import stepcred, sys, time\n"
        "broker = stepcred.connect()\n"
        "step = broker.step(scopes=['orders-read']).__enter__()\n"
        "time.sleep(0.5)\n"
        "sys.exit(7)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], check=False, timeout=30, capture_output=True, text=True)
    assert result.returncode == 7, result.stderr
    assert fake.requests("Heartbeat")


class Path:
    """Between client and broker. `forget()`: what is open gives nothing on any more, and does not say so."""

    def __init__(self, port: int) -> None:
        self._port, self._forgotten = port, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.addr = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def forget(self) -> None:
        self._forgotten = len(self._open)

    def close(self) -> None:
        for one in (self._listener, *self._open):
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._port))
                number = len(self._open)
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(source, sink, number), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if number >= self._forgotten:
                    sink.sendall(data)


def test_a_connection_that_is_dead_without_a_word_is_given_up(
    fake: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router that forgets: TCP would send again for a quarter of an hour, and the step die of silence."""
    monkeypatch.setattr(_step_core, "BEAT_TIMEOUT", 0.4)
    monkeypatch.setattr(_step_core, "BEAT_AGAIN", 0.05)
    fake.heartbeat = 0.05
    path = Path(fake.port)
    with contextlib.closing(path), stepcred.connect(path.addr) as broker, broker.step(scopes=["orders-read"]) as step:
        assert fake.wait_for(lambda: len(fake.requests("Heartbeat")) >= 2)
        path.forget()
        before = len(fake.requests("Heartbeat"))
        assert fake.wait_for(lambda: len(fake.requests("Heartbeat")) >= before + 4, timeout=20)
        assert step.alive
