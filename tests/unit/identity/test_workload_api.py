"""The broker's side of the SPIFFE Workload API: what is taken, what is kept, what is told."""

from __future__ import annotations

import builtins
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import spiffe
from cryptography.hazmat.primitives.serialization import Encoding

from broker.clock import SystemClock
from broker.errors import ConfigError, NoIdentity
from broker.identity.workload_api import WorkloadApi
from tests.fakes.workload_agent import Day, FakeAgent, Svid, response, svid
from tests.support.certs import TestCA
from tests.support.waiting import until

BROKER = "spiffe://test.local/stepcred-broker"
WAIT = timedelta(seconds=10)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestCA:
    return TestCA(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    with tempfile.TemporaryDirectory(prefix="wl-") as short, FakeAgent(Path(short) / "agent.sock") as made:
        yield made


Make = Callable[..., WorkloadApi]


@pytest.fixture
def api(agent: FakeAgent) -> Iterator[Make]:
    """Makes one that listens."""
    made: list[WorkloadApi] = []

    def make(wait: timedelta = WAIT, **given: Any) -> WorkloadApi:
        one = WorkloadApi(agent.address, SystemClock(), trust_domain="test.local", **given)
        made.append(one)
        one.start(wait)
        return one

    yield make
    for one in made:
        one.close()
    assert until(lambda: "workload api" not in [thread.name for thread in threading.enumerate()])


def pem(one: Svid) -> bytes:
    return one.chain[0].public_bytes(Encoding.PEM)


def problem(api: WorkloadApi) -> str:
    return api.problem(datetime.now(UTC))


def test_certificate_key_and_bundles_come_from_the_agent(
    agent: FakeAgent, authority: TestCA, api: Make, tmp_path: Path
) -> None:
    partner = TestCA(tmp_path, "partner.local")
    mine = svid(authority, BROKER, hosts=["localhost"])
    agent.push(response(mine, svid(authority, f"{BROKER}-b"), federated={"partner.local": [partner.root.certificate]}))
    one = api()
    identity = one.current()
    assert identity.spiffe_id == BROKER
    assert identity.chain_pem == pem(mine)
    assert identity.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert identity.bundles == {"test.local": authority.root_pem, "partner.local": partner.root_pem}
    assert "PRIVATE KEY" not in repr(identity)
    assert (one.generation, problem(one)) == (1, "")
    assert agent.without_header == 0


def test_another_identity_by_its_name(agent: FakeAgent, authority: TestCA, api: Make) -> None:
    agent.push(response(svid(authority, f"{BROKER}-b"), svid(authority, BROKER)))
    assert api(spiffe_id=BROKER).current().spiffe_id == BROKER
    with pytest.raises(NoIdentity, match=r"tls\.workload_api: .*gives us 2 identities, and not spiffe"):
        api(spiffe_id=f"{BROKER}-c", wait=timedelta(seconds=0.3))


def test_the_same_again_is_no_change(agent: FakeAgent, authority: TestCA, api: Make) -> None:
    agent.push(response(svid(authority, BROKER)))
    one = api()
    first, streams = one.current(), agent.streams
    agent.stop()
    agent.start()  # and pushes the same again
    assert agent.wait_for_streams(streams + 1)
    other = svid(authority, BROKER)
    agent.push(response(other))
    assert until(lambda: one.current() is not first)
    assert (one.current().chain_pem, one.generation) == (pem(other), 2)


@pytest.mark.parametrize(
    ("day", "words"),
    [
        (Day.DENYING, "has the broker an entry there"),
        (Day.HANGING, "has not answered"),
        (Day.GONE_WRONG, "cannot be reached"),
    ],
)
def test_a_broker_without_identity_does_not_start(agent: FakeAgent, api: Make, day: Day, words: str) -> None:
    agent.turn(day)
    with pytest.raises(NoIdentity, match=words):
        api(wait=timedelta(seconds=0.3))


def test_garbage_changes_nothing(agent: FakeAgent, authority: TestCA, api: Make, tmp_path: Path) -> None:
    """I7: whatever comes, the last good push stays, it is told, and the next good one is taken."""
    partner = TestCA(tmp_path, "partner.local")
    mine, new = svid(authority, BROKER), svid(authority, BROKER)
    agent.push(response(mine))
    one = api()
    good = one.current()
    unreadable, keyless, rootless, foreign = response(new), response(new), response(new), response(new)
    unreadable.svids[0].x509_svid = b"\x30\x03\x02\x01\x05"
    keyless.svids[0].x509_svid_key = b"junk"
    rootless.svids[0].bundle = b""
    foreign.federated_bundles["spiffe://not\x1b[31m"] = partner.root.certificate.public_bytes(Encoding.DER)
    stranger = response(svid(partner, "spiffe://partner.local/x"))
    for bad in (response(), unreadable, keyless, rootless, foreign, stranger):
        before = problem(one)
        agent.push(bad)
        assert until(lambda before=before: problem(one) not in ("", before))  # type: ignore[misc]
        assert "what it pushed last stays until" in problem(one)
        assert "\x1b" not in problem(one)
        assert one.current() is good
    agent.push(response(new))
    assert until(lambda: one.current().chain_pem == pem(new))
    assert (one.generation, problem(one)) == (2, "")


def test_an_agent_that_is_away_is_told_and_found_again(agent: FakeAgent, authority: TestCA, api: Make) -> None:
    mine, new = svid(authority, BROKER), svid(authority, BROKER)
    agent.push(response(mine))
    one = api()
    agent.stop()
    assert until(lambda: "cannot be reached" in problem(one))
    assert one.current().chain_pem == pem(mine)
    agent.push(response(new))
    agent.start()
    assert until(lambda: one.current().chain_pem == pem(new))
    assert problem(one) == ""


def test_a_stream_that_cannot_be_begun_is_told_and_begun_again(
    agent: FakeAgent, authority: TestCA, api: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, new = svid(authority, BROKER), svid(authority, BROKER)
    agent.push(response(mine))
    one = api()

    def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(spiffe.WorkloadApiClient, "stream_x509_contexts", failing)
        agent.stop()
        agent.push(response(new))
        agent.start()
        assert until(lambda: "start new thread" in problem(one))
    assert until(lambda: one.current().chain_pem == pem(new))


def test_an_entry_that_is_taken_away_is_told(agent: FakeAgent, authority: TestCA, api: Make) -> None:
    agent.push(response(svid(authority, BROKER)))
    one = api()
    agent.turn(Day.DENYING)
    assert until(lambda: "has the broker an entry there" in problem(one))


def test_a_silent_agent_is_told_before_the_certificate_ends(agent: FakeAgent, authority: TestCA, api: Make) -> None:
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    agent.push(response(svid(authority, BROKER, not_before=now - hour, not_after=now + hour)))
    one = api()
    assert one.problem(now + timedelta(minutes=29)) == ""
    assert "has sent no new certificate" in one.problem(now + timedelta(minutes=31))


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "spiffe":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"stepcred\[broker,spiffe\]"):
        WorkloadApi("unix:///agent.sock", SystemClock(), trust_domain="test.local")
