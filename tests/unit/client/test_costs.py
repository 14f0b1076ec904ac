"""What a step may cost at most, in counts: they are the same on every machine."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

import stepcred
from stepcred import _source, _threads
from stepcred._source import Files
from stepcred._transport import Stub, target
from stepcred.v1 import broker_pb2
from stepcred.v1.broker_pb2_grpc import CredentialBrokerStub
from tests.fakes.broker_server import FakeBroker
from tests.support.certs import Creds
from tests.unit.client.conftest import Pki

METHODS = [method.name for method in broker_pb2.DESCRIPTOR.services_by_name["CredentialBroker"].methods]


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, str]]:
    """What OpenSSL was asked about, in a process that knows of nothing yet."""
    asked: list[Mapping[str, str]] = []
    real = _source._check

    def check(paths: Mapping[str, str]) -> list[str]:
        asked.append(paths)
        return real(paths)

    monkeypatch.setattr(_source, "_check", check)
    monkeypatch.setattr(_source, "_known_good", {})
    return asked


def copied(creds: Creds, folder: Path) -> dict[str, Path]:
    here = {name: folder / f"{name}.pem" for name in ("cert", "key", "ca")}
    for name, path in here.items():
        path.write_bytes(getattr(creds, name).read_bytes())
    return here


def read(paths: Mapping[str, Path]) -> Files:
    return Files({name: str(path) for name, path in paths.items()})


def test_the_same_identity_is_checked_once_in_a_process(
    checks: list[Mapping[str, str]], pki: Pki, tmp_path: Path
) -> None:
    paths = copied(pki.agent, tmp_path)
    for _ in range(5):
        read(paths).current()
    assert len(checks) == 1
    new = pki.authority.agent("spiffe://test.local/workflow/nightly-etl/step/load")
    source = read(paths)
    for name, path in paths.items():
        path.write_bytes(getattr(new, name).read_bytes())
    assert source.current().key == new.key.read_bytes()
    assert len(checks) == 2
    read(paths)
    assert len(checks) == 2


def test_parts_that_are_each_known_are_checked_together(
    checks: list[Mapping[str, str]], pki: Pki, tmp_path: Path
) -> None:
    paths = copied(pki.agent, tmp_path)
    other = pki.authority.agent("spiffe://test.local/workflow/nightly-etl/step/load")
    read(paths)
    read(copied(other, tmp_path))
    paths["cert"].write_bytes(pki.agent.cert.read_bytes())
    with pytest.raises(stepcred.SettingsError, match="are not a PEM certificate and its unencrypted private key"):
        read(paths)
    assert len(checks) == 3


def test_what_is_not_good_is_told_each_time(checks: list[Mapping[str, str]], pki: Pki, tmp_path: Path) -> None:
    paths = copied(pki.agent, tmp_path)
    paths["key"].write_text("no key")
    for _ in range(2):
        with pytest.raises(stepcred.SettingsError):
            read(paths)
    assert len(checks) == 2


def test_what_is_known_is_bounded_and_holds_no_key(
    checks: list[Mapping[str, str]], pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_source, "MOST_KNOWN", 2)
    paths = copied(pki.agent, tmp_path)
    for number in range(4):
        paths["ca"].write_bytes(pki.agent.ca.read_bytes() + b"\n" * number)
        read(paths)
        assert len(_source._known_good) <= 2
    assert all(len(digest) == 32 for digests in _source._known_good for digest in digests)


class Counting:
    """Stands for a channel."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()

    def unary_unary(self, path: str, **about: Any) -> tuple[str, Any, Any]:
        self.made[path] += 1
        return path, about["request_serializer"], about["response_deserializer"]


def test_only_methods_that_are_called_are_made_and_each_once() -> None:
    channel = Counting()
    stub = Stub(channel)
    for _ in range(3):
        stub.BeginStep, stub.EndStep  # noqa: B018 (what a call asks for)
    assert channel.made == {"/stepcred.v1.CredentialBroker/BeginStep": 1, "/stepcred.v1.CredentialBroker/EndStep": 1}


def test_every_method_is_the_generated_one() -> None:
    channel: Any = Counting()
    ours, generated = Stub(channel), CredentialBrokerStub(channel)
    assert METHODS
    for name in METHODS:
        assert getattr(ours, name) == getattr(generated, name)


@pytest.mark.parametrize(
    ("addr", "expected"),
    [
        ("127.0.0.1:4433", "ipv4:127.0.0.1:4433"),
        ("[::1]:4433", "ipv6:[::1]:4433"),
        ("broker.example:4433", "broker.example:4433"),
        ("10.1:4433", "10.1:4433"),  # a resolver's shorthand
        ("[fe80::1%eth0]:4433", "[fe80::1%eth0]:4433"),
        ("127.0.0.1:99999", "127.0.0.1:99999"),  # the resolver says what is wrong with it
    ],
)
def test_an_address_of_numbers_needs_no_resolver(addr: str, expected: str) -> None:
    assert target(addr) == expected


def test_a_step_sends_three_requests_over_one_channel_and_leaves_no_thread(
    fake: FakeBroker, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_threads, "LINGER", 0.1)
    made: list[str] = []
    real = grpc.secure_channel

    def secure_channel(where: str, *arguments: Any, **options: Any) -> grpc.Channel:
        made.append(where)
        return real(where, *arguments, **options)

    monkeypatch.setattr(grpc, "secure_channel", secure_channel)
    steps = 3
    for number in range(steps):
        with stepcred.connect() as broker, broker.step(run=str(number), scopes=["orders-read"]) as step:
            step.issue("orders-read")
        assert step.all_proven
    assert made == [f"ipv4:{environ['STEPCRED_ADDR']}"] * steps
    for method in ("BeginStep", "IssueCredential", "EndStep"):
        assert len(fake.requests(method)) == steps, method
    assert not fake.requests("WhoAmI")
    assert len(fake.requests("Heartbeat")) <= steps  # the claim, where it overtakes the end
    deadline = time.monotonic() + 10
    while ours() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not ours()


def ours() -> list[str]:
    """Threads of the client."""
    return [one.name for one in threading.enumerate() if one.name.startswith("stepcred-")]
