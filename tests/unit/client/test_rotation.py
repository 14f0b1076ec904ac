"""Certificates are replaced while steps run: new calls use the new one, and no call fails for it."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

import stepcred
from stepcred import _source
from stepcred._source import Files
from stepcred._transport import Lane, Lanes
from tests.fakes.broker_server import FakeBroker
from tests.support.certs import Creds
from tests.unit.client.conftest import Pki

AGENT = "spiffe://test.local/workflow/nightly-etl/step/load"


@pytest.fixture
def mounted(tmp_path: Path, pki: Pki, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Creds:
    """The agent's files in a place where they can be replaced; nothing of them is known yet."""
    monkeypatch.setattr(_source, "_known_good", {})
    here = Creds(cert=tmp_path / "svid.pem", key=tmp_path / "svid.key", ca=tmp_path / "ca.pem")
    put(pki.agent, here)
    for name in ("cert", "key", "ca"):
        monkeypatch.setenv(f"STEPCRED_{name.upper()}", str(getattr(here, name)))
    return here


def put(new: Creds, here: Creds) -> None:
    """As cert-manager and spiffe-helper do: each file in one rename, one after the other."""
    for source, target in ((new.cert, here.cert), (new.key, here.key), (new.ca, here.ca)):
        beside = target.with_suffix(".new")
        shutil.copy(source, beside)
        os.replace(beside, target)  # noqa: PTH105


def files(creds: Creds) -> Files:
    return Files({"cert": str(creds.cert), "key": str(creds.key), "ca": str(creds.ca)})


@contextmanager
def held(fake: FakeBroker, seconds: float = 0.3) -> Iterator[None]:
    """Calls of WhoAmI take so long."""
    fake.delay["WhoAmI"] = seconds
    yield
    fake.delay.clear()


def test_a_replaced_certificate_is_used_from_the_next_call_on(fake: FakeBroker, pki: Pki, mounted: Creds) -> None:
    new = pki.authority.agent(AGENT)
    with stepcred.connect() as broker:
        broker.whoami()
        put(new, mounted)
        broker.whoami()
        broker.whoami()
    assert fake.peers == [pki.agent.cert.read_bytes(), new.cert.read_bytes(), new.cert.read_bytes()]


def test_a_call_under_way_outlives_the_replacement(fake: FakeBroker, pki: Pki, mounted: Creds) -> None:
    failed: list[BaseException] = []

    def slow(broker: stepcred.Broker) -> None:
        try:
            broker.whoami()
        except stepcred.StepcredError as error:
            failed.append(error)

    with stepcred.connect() as broker:
        with held(fake):
            thread = threading.Thread(target=slow, args=(broker,))
            thread.start()
            assert fake.wait_for(lambda: len(fake.calls) == 1)
        put(pki.authority.agent(AGENT), mounted)
        broker.whoami()  # on a channel of its own, while the first is held
        assert thread.is_alive()
        thread.join(10)
        assert not failed
        assert len(broker._lanes._open) == 1, "the older channel was not closed"


async def test_and_so_in_asyncio(fake: FakeBroker, pki: Pki, mounted: Creds) -> None:
    new = pki.authority.agent(AGENT)
    async with stepcred.aio.connect() as broker:
        with held(fake):
            slow = asyncio.create_task(broker.whoami())
            assert await asyncio.to_thread(fake.wait_for, lambda: len(fake.calls) == 1)
        put(new, mounted)
        await broker.whoami()
        assert not slow.done()
        await slow
        assert len(broker._lanes._open) == 1
    assert fake.peers == [pki.agent.cert.read_bytes(), new.cert.read_bytes()]


def test_an_open_step_goes_on_with_the_new_certificate(fake: FakeBroker, pki: Pki, mounted: Creds) -> None:
    fake.heartbeat = 0.05
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step:
        step.issue("orders-read")
        new = pki.authority.agent(AGENT)
        put(new, mounted)
        assert fake.wait_for(lambda: new.cert.read_bytes() in fake.peers), "heartbeats kept the old certificate"
        step.issue("orders-read")
    assert step.all_proven


def test_half_a_replacement_keeps_the_last_good_pair(
    pki: Pki, mounted: Creds, caplog: pytest.LogCaptureFixture
) -> None:
    source = files(mounted)
    first = source.current()
    new = pki.authority.agent(AGENT)
    shutil.copy(new.cert, mounted.cert)  # its key is still to come
    assert source.current() is first
    assert source.current() is first
    assert len(caplog.records) == 1, "told once, not at each call"
    mounted.ca.unlink()
    assert source.current() is first
    shutil.copy(new.key, mounted.key)
    shutil.copy(new.ca, mounted.ca)
    assert source.current().cert == new.cert.read_bytes()


def test_a_copy_that_brings_its_old_times_and_size_along_is_seen(pki: Pki, mounted: Creds) -> None:
    new = pki.authority.agent(AGENT)
    for before, after in ((mounted.cert, new.cert), (mounted.key, new.key)):
        longest = max(before.stat().st_size, after.stat().st_size)
        for path in (before, after):
            path.write_bytes(path.read_bytes().ljust(longest, b"\n"))
            os.utime(path, ns=(0, 0))
    source = files(mounted)
    first = source.current()
    shutil.copy2(new.key, mounted.key)
    shutil.copy2(new.cert, mounted.cert)
    assert mounted.cert.stat().st_mtime_ns == 0
    assert source.current() is not first


def test_what_is_replaced_while_it_is_read_is_read_again(
    pki: Pki, mounted: Creds, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = pki.authority.agent(AGENT)
    real = _source._check
    checks: list[int] = []

    def slow(paths: Mapping[str, str]) -> list[str]:
        if not checks:
            put(new, mounted)
        checks.append(1)
        return real(paths)

    monkeypatch.setattr(_source, "_check", slow)
    assert files(mounted)._pems.cert == new.cert.read_bytes()
    assert len(checks) == 2


def test_files_that_never_rest_are_told(mounted: Creds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        _source, "_check", lambda _paths: mounted.ca.write_bytes(mounted.ca.read_bytes() + b"\n") and []
    )
    with pytest.raises(stepcred.SettingsError, match="keeps rewriting"):
        files(mounted)


def test_the_same_content_written_again_is_no_new_connection(pki: Pki, mounted: Creds) -> None:
    source = files(mounted)
    first = source.current()
    put(pki.agent, mounted)
    assert source.current() is first


def test_rotation_under_load_fails_no_call(fake: FakeBroker, pki: Pki, mounted: Creds) -> None:
    """Eight threads call without a pause while the certificate is replaced ten times."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def load(broker: stepcred.Broker) -> None:
        while not stop.is_set():
            try:
                broker.whoami()
            except BaseException as error:  # noqa: BLE001 (whatever it is, it is counted)
                failures.append(error)
                return

    with stepcred.connect() as broker:
        threads = [threading.Thread(target=load, args=(broker,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            new = pki.authority.agent(AGENT)
            put(new, mounted)
            pem = new.cert.read_bytes()
            assert fake.wait_for(lambda pem=pem: pem in fake.peers)  # type: ignore[misc]
        stop.set()
        for thread in threads:
            thread.join(10)
        broker.whoami()
        assert len(broker._lanes._open) == 1
    assert not failures


def test_mutant_closing_the_older_channel_at_once_fails_calls(
    fake: FakeBroker, pki: Pki, mounted: Creds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What test_a_call_under_way_outlives_the_replacement is there for."""
    enter = Lanes.enter

    def at_once(lanes: Lanes[grpc.Channel]) -> Lane[grpc.Channel]:
        before = lanes._newest
        lane = enter(lanes)
        if before is not None and before is not lane:
            before.channel.close()
        return lane

    monkeypatch.setattr(Lanes, "enter", at_once)
    with pytest.raises(AssertionError):
        test_a_call_under_way_outlives_the_replacement(fake, pki, mounted)
