"""Certificate, key and CA from a SPIFFE agent: good days, bad days, and what is told about them."""

from __future__ import annotations

import asyncio
import builtins
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import stepcred
from stepcred import WorkloadApi, _settings
from stepcred._workload_api import WorkloadApiSource
from stepcred.cli import _app, _exits
from tests.fakes.broker_server import FakeBroker
from tests.fakes.workload_agent import Day, FakeAgent, Svid, response, svid
from tests.support.certs import TestCA
from tests.support.waiting import until
from tests.unit.client.conftest import Pki

LOAD = "spiffe://test.local/workflow/nightly-etl/step/load"
OTHER = "spiffe://test.local/other"


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    with tempfile.TemporaryDirectory(prefix="wl-") as short, FakeAgent(Path(short) / "agent.sock") as made:
        yield made


@pytest.fixture
def environ(fake: FakeBroker, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a pod with SPIRE's CSI driver needs."""
    for name in ("STEPCRED_CERT", "STEPCRED_KEY", "STEPCRED_CA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STEPCRED_ADDR", fake.addr)
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", agent.address)
    monkeypatch.setenv("STEPCRED_SPIFFE_WAIT", "10")


def pem(one: Svid) -> bytes:
    return one.chain[0].public_bytes(Encoding.PEM)


@pytest.fixture
def source(agent: FakeAgent) -> Iterator[WorkloadApiSource]:
    made = WorkloadApiSource(WorkloadApi(socket=agent.address, wait=10), {})
    yield made
    made.close()


@pytest.mark.usefixtures("environ")
def test_a_step_needs_nothing_but_the_socket(fake: FakeBroker, agent: FakeAgent, pki: Pki) -> None:
    mine = svid(pki.authority, LOAD)
    agent.push(response(mine))
    with stepcred.connect() as broker, broker.step(workflow="w", run="1", step="s", scopes=["orders-read"]) as step:
        step.issue("orders-read")
    assert step.all_proven
    assert set(fake.peers) == {pem(mine)}
    assert agent.without_header == 0


@pytest.mark.usefixtures("environ")
async def test_and_so_in_asyncio(fake: FakeBroker, agent: FakeAgent, pki: Pki) -> None:
    first, second = svid(pki.authority, LOAD), svid(pki.authority, LOAD)
    agent.push(response(first))
    async with stepcred.aio.connect() as broker:
        await broker.whoami()
        agent.push(response(second))
        while fake.peers[-1] != pem(second):
            await broker.whoami()
            await asyncio.sleep(0.01)
    assert set(fake.peers) == {pem(first), pem(second)}


@pytest.mark.usefixtures("environ")
def test_rotation_under_load_fails_no_call(fake: FakeBroker, agent: FakeAgent, pki: Pki) -> None:
    """Four threads call without a pause while the agent rotates, restarts, and rotates again."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def load(broker: stepcred.Broker) -> None:
        while not stop.is_set():
            try:
                broker.whoami()
            except BaseException as error:  # noqa: BLE001 (whatever it is, it is counted)
                failures.append(error)
                return

    agent.push(response(svid(pki.authority, LOAD)))
    with stepcred.connect() as broker:
        threads = [threading.Thread(target=load, args=(broker,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(6):
            new = svid(pki.authority, LOAD)
            if number == 3:
                agent.stop()
                agent.start()
            agent.push(response(new))
            assert fake.wait_for(lambda new=new: pem(new) in fake.peers, 20)  # type: ignore[misc]
        stop.set()
        for thread in threads:
            thread.join(10)
    assert not failures


def test_the_first_identity_unless_one_is_named(agent: FakeAgent, pki: Pki) -> None:
    mine, other = svid(pki.authority, LOAD), svid(pki.authority, OTHER)
    agent.push(response(other, mine))
    assert _first(WorkloadApi(socket=agent.address)).cert == pem(other)
    assert _first(WorkloadApi(socket=agent.address, spiffe_id=LOAD)).cert == pem(mine)
    with pytest.raises(stepcred.NoIdentity, match=rf"gives us {OTHER}, {LOAD}, and not .*/none"):
        _first(WorkloadApi(socket=agent.address, spiffe_id=f"{LOAD}/none", wait=0.5))


def test_the_bundle_of_the_brokers_own_domain_vouches_for_it(agent: FakeAgent, pki: Pki, tmp_path: Path) -> None:
    theirs = TestCA(tmp_path, "theirs.local")
    agent.push(response(svid(pki.authority, LOAD), federated={"theirs.local": [theirs.root.certificate]}))
    assert _first(WorkloadApi(socket=agent.address)).ca == pki.authority.root_pem
    assert _first(WorkloadApi(socket=agent.address, broker_trust_domain="theirs.local")).ca == theirs.root_pem
    with pytest.raises(stepcred.NoIdentity, match=r"no bundle of the broker's trust domain nobody\.local"):
        _first(WorkloadApi(socket=agent.address, broker_trust_domain="nobody.local", wait=0.5))


def test_a_chain_is_sent_whole(agent: FakeAgent, pki: Pki) -> None:
    below = pki.authority.intermediate()
    mine = svid(pki.authority, LOAD, issuer=below)
    agent.push(response(mine))
    assert _first(WorkloadApi(socket=agent.address)).cert == pem(mine) + below.certificate.public_bytes(Encoding.PEM)


def _first(given: WorkloadApi) -> Any:
    source = WorkloadApiSource(given, {})
    source.start()
    source.close()
    return source.current()


def test_the_brokers_svid_needs_a_dns_name(agent: FakeAgent, pki: Pki) -> None:
    """What gRPC compares is the host name; Python offers no other check, and never looks at the URI name."""
    agent.push(response(svid(pki.authority, LOAD)))
    api = WorkloadApi(socket=agent.address)
    for names, served in ((["localhost"], True), ([], False)):
        theirs = svid(pki.authority, "spiffe://test.local/stepcred-broker", hosts=names)
        files = pki.authority.write(theirs.chain, theirs.key)
        expected = nullcontext() if served else pytest.raises(stepcred.TlsRefused, match="not for this host name")
        with (
            FakeBroker(tls=(files.cert, files.key, files.ca)) as server,
            stepcred.connect(f"localhost:{server.port}", workload_api=api, timeout=5) as broker,
            expected,
        ):
            broker.whoami()


# --- no identity


@pytest.mark.parametrize(
    ("day", "words", "code"),
    [
        (Day.DENYING, "has no identity for this process", _exits.RETRY_LATER),
        (Day.HANGING, "did not answer within 0.3 s", _exits.UNAVAILABLE),
        (Day.GONE_WRONG, "cannot be reached", _exits.UNAVAILABLE),
    ],
)
def test_no_identity_is_told_within_the_bound(agent: FakeAgent, day: Day, words: str, code: int) -> None:
    agent.turn(day)
    with pytest.raises(stepcred.NoIdentity, match=words) as caught:
        _first(WorkloadApi(socket=agent.address, wait=0.3))
    assert _exits.exit_code(caught.value) == code


@pytest.mark.usefixtures("environ")
def test_the_command_says_it_while_it_waits_and_at_the_end(  # a line each
    agent: FakeAgent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.turn(Day.DENYING)
    monkeypatch.setenv("STEPCRED_SPIFFE_WAIT", "0.2")
    monkeypatch.setattr(sys, "argv", ["stepcred", "exec", "--scope", "orders-read", "--run", "1", "--", "true"])
    assert _app.run() == _exits.RETRY_LATER
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("has no identity for this process" in line for line in lines)


def test_no_agent_is_told_so() -> None:
    with pytest.raises(stepcred.NoIdentity, match="cannot be reached; is the agent running"):
        _first(WorkloadApi(socket="unix:///nowhere/agent.sock", wait=0.3))


def test_an_entry_that_comes_a_little_later_is_waited_for(
    agent: FakeAgent, pki: Pki, source: WorkloadApiSource
) -> None:
    mine = svid(pki.authority, LOAD)
    agent.turn(Day.DENYING)
    agent.push(response(mine))
    threading.Timer(0.3, agent.turn, [Day.GOOD]).start()
    source.start()
    assert source.current().cert == pem(mine)


async def test_a_cancelled_start_leaves_nothing_behind(
    fake: FakeBroker, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.turn(Day.HANGING)
    broker = stepcred.aio.connect(fake.addr, workload_api=WorkloadApi(socket=agent.address, wait=60))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), broker:
            pass
    assert await asyncio.to_thread(until, lambda: not _watching())


def _watching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "stepcred-workload-api"]


# --- the last good one


def test_garbage_keeps_the_last_good_one(
    agent: FakeAgent, pki: Pki, source: WorkloadApiSource, caplog: pytest.LogCaptureFixture
) -> None:
    mine, new = svid(pki.authority, LOAD), svid(pki.authority, LOAD)
    agent.push(response(mine))
    source.start()
    good = source.current()
    expired = svid(pki.authority, LOAD, not_after=datetime.now(UTC) - timedelta(seconds=1))
    mixed = Svid(chain=new.chain, key=mine.key, roots=new.roots)
    unreadable = response(new)
    unreadable.svids[0].x509_svid = b"\x30\x03\x02\x01\x05"
    keyless = response(new)
    keyless.svids[0].x509_svid_key = b"junk"
    rootless = response(new)
    rootless.svids[0].bundle = b""
    for bad in (response(), response(expired), response(mixed), unreadable, keyless, rootless):
        told, streams = len(caplog.records), agent.streams
        agent.push(bad)
        assert until(lambda told=told, streams=streams: len(caplog.records) > told or agent.streams > streams)  # type: ignore[misc]
        assert source.current() is good
    agent.push(response(new))
    assert until(lambda: source.current().cert == pem(new)), "a good one after garbage was not taken"
    assert all("PRIVATE KEY" not in record.getMessage() for record in caplog.records)


def test_an_agent_that_is_away_costs_nothing_until_the_certificate_ends(
    agent: FakeAgent, pki: Pki, source: WorkloadApiSource
) -> None:
    mine = svid(pki.authority, LOAD, not_after=datetime.now(UTC) + timedelta(seconds=2))
    agent.push(response(mine))
    source.start()
    agent.stop()
    assert source.current().cert == pem(mine)
    assert until(lambda: not _usable(source))
    with pytest.raises(stepcred.NoIdentity, match=r"our certificate expired at .* cannot be reached"):
        source.current()
    new = svid(pki.authority, LOAD)
    agent.push(response(new))
    agent.start()
    assert until(lambda: _usable(source))
    assert source.current().cert == pem(new)


def _usable(source: WorkloadApiSource) -> bool:
    try:
        source.current()
    except stepcred.NoIdentity:
        return False
    return True


@pytest.mark.usefixtures("environ")
def test_heartbeats_survive_a_time_without_identity(
    fake: FakeBroker,
    agent: FakeAgent,
    pki: Pki,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "stepcred")
    monkeypatch.setattr("stepcred._step_core.BEAT_AGAIN", 0.05)
    fake.heartbeat = 0.05
    agent.push(response(svid(pki.authority, LOAD)))
    with stepcred.connect() as broker, broker.step(workflow="w", run="1", step="s", scopes=["orders-read"]) as step:
        source = broker._lanes._source
        assert isinstance(source, WorkloadApiSource)
        monkeypatch.setattr(source, "_not_after", datetime.now(UTC) - timedelta(seconds=1))
        with pytest.raises(stepcred.NoIdentity):
            step.issue("orders-read")
        assert until(lambda: "heartbeat failed" in caplog.text)
        new = svid(pki.authority, LOAD)
        agent.push(response(new))
        assert fake.wait_for(lambda: pem(new) in fake.peers), "the heartbeats ended"


# --- settings


def _settings_problems(environ: dict[str, str], **given: Any) -> list[str]:
    with pytest.raises(stepcred.SettingsError) as caught:
        _settings.read(**{"addr": "a:1", "cert": None, "key": None, "ca": None, **given}, environ=environ)
    return list(caught.value.problems)


def test_every_unusable_setting_is_named_at_once() -> None:
    environ = {
        "SPIFFE_ENDPOINT_SOCKET": "tcp://127.0.0.1:1",
        "STEPCRED_SPIFFE_ID": "load",
        "STEPCRED_BROKER_TRUST_DOMAIN": "spiffe://Other",
        "STEPCRED_SPIFFE_WAIT": "soon",
    }
    problems = _settings_problems(environ)
    assert [problem.split()[0] for problem in problems] == list(environ)


def test_files_come_before_the_workload_api() -> None:
    problems = _settings_problems({"SPIFFE_ENDPOINT_SOCKET": "unix:///agent.sock", "STEPCRED_CA": "/none"})
    assert "STEPCRED_CERT is not set" in problems[0]
    assert "is used only when none of" in problems[-1]
    assert _settings_problems({}, workload_api=WorkloadApi(), cert="x") == [
        "give cert, key and ca, or workload_api, not both"
    ]


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "spiffe":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    (problem,) = _settings_problems({"SPIFFE_ENDPOINT_SOCKET": "unix:///agent.sock"})
    assert "pip install 'stepcred[spiffe]'" in problem
