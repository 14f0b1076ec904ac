"""`wait_broker`: a broker that is not there yet is waited for, once, and no refusal is."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest

import stepcred
from stepcred import _settings
from tests.fakes.broker_server import FakeBroker
from tests.support.certs import TestCA
from tests.unit.client.conftest import Pki


@pytest.fixture(autouse=True)
def _variables(environ: dict[str, str]) -> None:
    """Every test here has the broker's settings."""


def test_the_first_call_waits_and_its_own_time_begins_then(fake: FakeBroker) -> None:
    fake.stop()
    threading.Timer(1.0, fake.start).start()
    with stepcred.connect(timeout=0.8, wait_broker=timedelta(seconds=20)) as broker, broker.step(scopes=[]):
        pass
    assert fake.only_step().ended


async def test_the_same_in_asyncio(fake: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.stop()
    threading.Timer(0.5, fake.start).start()
    monkeypatch.setenv("STEPCRED_WAIT_BROKER", "20s")
    async with stepcred.aio.connect(timeout=0.8) as broker:
        await broker.whoami()


def test_not_longer_than_asked_for(fake: FakeBroker) -> None:
    fake.stop()
    start = time.monotonic()
    with stepcred.connect(wait_broker=0.6, timeout=0.5) as broker, pytest.raises(stepcred.BrokerUnavailable):
        broker.whoami()
    assert time.monotonic() - start < 5


def test_not_again_once_it_was_there(fake: FakeBroker) -> None:
    with stepcred.connect(wait_broker=60, timeout=1) as broker:
        broker.whoami()
        fake.stop()
        start = time.monotonic()
        with pytest.raises(stepcred.StepcredError):
            broker.whoami()
        assert time.monotonic() - start < 10


def test_a_refused_certificate_is_not_waited_for(
    fake: FakeBroker, pki: Pki, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = TestCA(tmp_path_factory.mktemp("stranger"), "other.local").agent("spiffe://other.local/x")
    start = time.monotonic()
    with (
        stepcred.connect(fake.addr, str(stranger.cert), str(stranger.key), str(pki.agent.ca), wait_broker=60) as broker,
        pytest.raises(stepcred.TlsRefused),
    ):
        broker.whoami()
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(("text", "seconds"), [("", 0), ("30s", 30), ("2m", 120), ("0s", 0)])
def test_how_it_is_written(text: str, seconds: float) -> None:
    assert _settings.wait_broker(None, environ={"STEPCRED_WAIT_BROKER": text}) == seconds
    assert _settings.wait_broker(5, environ={"STEPCRED_WAIT_BROKER": text}) == 5


def test_what_is_no_time_is_said() -> None:
    for text in ("30", "for ever", "-1s", "30 s"):
        with pytest.raises(stepcred.SettingsError, match="30s or 2m"):
            _settings.wait_broker(None, environ={"STEPCRED_WAIT_BROKER": text})
    for bad in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="wait_broker"):
            stepcred.connect(wait_broker=bad)
