"""One channel, asked again and again."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from stepcred._errors import BrokerUnavailable, DeadlineExceeded, Refused, StepcredError, TlsRefused
from stepcred._settings import Settings
from stepcred._source import Files
from stepcred.cli._top import poller as module
from stepcred.cli._top.model import Snapshot
from stepcred.cli._top.poller import Poller
from stepcred.v1 import operator_pb2 as pb
from tests.fakes.broker_server import Refusal
from tests.fakes.operator_server import FakeOperatorService
from tests.support.certs import Creds
from tests.unit.client.conftest import Pki

NO_VIEWER = Refusal(code=grpc.StatusCode.PERMISSION_DENIED, message="no role", reason="NOT_AN_OPERATOR")


@pytest.fixture
def poller(settings: Settings) -> Poller:
    return Poller(settings)


def test_everything_is_asked_for_once(poller: Poller, service: FakeOperatorService, snapshot: Snapshot) -> None:
    assert poller.poll() == snapshot
    assert len(service.calls) == len(set(service.calls)) == 7
    poller.close()


def test_pages_are_followed_to_the_end(poller: Poller, service: FakeOperatorService, snapshot: Snapshot) -> None:
    service.page = 3
    assert poller.poll() == snapshot
    assert service.calls.count("ListLeases") == 3
    poller.close()


def test_what_is_cut_is_named(poller: Poller, service: FakeOperatorService) -> None:
    service.page = 1
    service.steps = [pb.OperatorStep(step_id=str(n)) for n in range(11)]
    found = poller.poll()
    assert (len(found.steps), found.cut) == (10, frozenset({"steps"}))
    poller.close()


def test_a_broker_that_went_away_comes_back(poller: Poller, service: FakeOperatorService) -> None:
    poller.poll()
    service.stop()
    with pytest.raises(BrokerUnavailable):
        poller.poll()
    service.start()
    for _ in range(200):  # gRPC looks again by its own clock
        try:
            assert poller.poll().steps
        except BrokerUnavailable:
            threading.Event().wait(0.05)
        else:
            break
    else:
        pytest.fail("it never came back")
    poller.close()


def test_silence_ends_in_time(poller: Poller, service: FakeOperatorService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    service.hang()
    with pytest.raises(DeadlineExceeded):
        poller.poll()
    poller.close()


def test_a_refusal_keeps_its_reason(poller: Poller, service: FakeOperatorService) -> None:
    service.refusal = NO_VIEWER
    with pytest.raises(Refused, match="NOT_AN_OPERATOR"):
        poller.poll()
    poller.close()


def test_an_agents_certificate_is_told_so(service: FakeOperatorService, pki: Pki) -> None:
    files = {"cert": str(pki.agent.cert), "key": str(pki.agent.key), "ca": str(pki.agent.ca)}
    poller = Poller(Settings(addr=service.addr, source=Files(files)))
    with pytest.raises((TlsRefused, BrokerUnavailable)):
        poller.poll()
    poller.close()


def test_closing_lets_go_who_waits(
    poller: Poller, service: FakeOperatorService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 3600.0)
    service.hang()
    ends: list[BaseException] = []

    def wait() -> None:
        try:
            poller.poll()
        except (StepcredError, ValueError) as error:
            ends.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    while "GetHealth" not in service.calls:
        threading.Event().wait(0.01)
    poller.close()
    waiting.join(timeout=20)
    assert ends


def test_a_new_certificate_is_used(
    service: FakeOperatorService, settings: Settings, operator: Creds, pki: Pki, tmp_path: Path
) -> None:
    for name in ("cert", "key", "ca"):
        shutil.copy(getattr(operator, name), tmp_path / name)
    source = Files({name: str(tmp_path / name) for name in ("cert", "key", "ca")})
    poller = Poller(replace(settings, source=source))
    poller.poll()
    newer = pki.authority.operator("spiffe://test.local/operator/ann")
    for name in ("cert", "key"):
        shutil.copy(getattr(newer, name), tmp_path / name)
    poller.poll()
    serials = [x509.load_pem_x509_certificate(pem).serial_number for pem in service.peers]
    assert len(set(serials[:7])) == 1
    assert set(serials[7:]) == {x509.load_pem_x509_certificate(newer.cert.read_bytes()).serial_number}
    poller.close()
