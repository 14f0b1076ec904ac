"""The looks of `stepcred-broker check`, each by itself: what it says, and that what it says to do mends it."""

from __future__ import annotations

import json
import os
import resource
import socket
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker import log
from broker.__main__ import main
from broker.cli import check as package
from broker.cli.check import files, machine, state, tls
from broker.cli.check.looked import Looked
from broker.config import Config, Limits, Operators, Receiver, load
from broker.config.values import Address
from broker.identity.authority import Authority, key_usage, name_of, new_authority, new_builder
from broker.providers.base import Findings
from broker.wiring import listeners, offline
from tests.support.certs import PEM, TestCA, revocation_list
from tests.support.pages import bash
from tests.support.processes import free_port

NOW = datetime.now(UTC)
SERVER: dict[str, Any] = {
    "uris": (),
    "eku": (ExtendedKeyUsageOID.SERVER_AUTH,),
    "other_names": (x509.DNSName("localhost"),),
}
SCOPES = """
version: 1
environment: dev
trust_domain: test.local
workloads:
  load: {id: "spiffe://test.local/workflow/{workflow}/step/load", owners: ["group:data"]}
scopes:
  orders: {vault: {role: orders-ro}, ttl: 10m, tier: low}
grants:
  nightly: {workloads: [load], workflows: [etl], scopes: [orders], max_step: 2h}
"""


@pytest.fixture(autouse=True)
def _keep_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets up the loggers of the whole process, which is the other tests' too."""
    monkeypatch.setattr(log, "configure", lambda *_: None)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> TestCA:
    return TestCA(tmp_path_factory.mktemp("check"), "test.local")


@pytest.fixture
def path(ca: TestCA, tmp_path: Path) -> Path:
    cert, key = ca.server()
    (tmp_path / "scopes.yaml").write_text(SCOPES)
    (tmp_path / "secret-id").touch(mode=0o600)
    (tmp_path / "secret-id").write_text("0123-4567\n")
    file = tmp_path / "broker.toml"
    file.write_text(f"""
environment = "dev"
trust_domain = "test.local"
listen = {{ grpc = "127.0.0.1:{free_port()}", http = "127.0.0.1:{free_port()}" }}
tls = {{ cert_file = "{cert}", key_file = "{key}", client_ca_file = "{ca.root_path}" }}
store = {{ path = "broker.db", mint_key_file = "mint.key" }}
scopes.file = "scopes.yaml"
vault = {{ address = "http://127.0.0.1:1", approle = {{ role_id = "b", secret_id_file = "secret-id" }} }}
""")
    return file


@pytest.fixture
def config(path: Path) -> Config:
    return load(path, {})


def served_with(config: Config, ca: TestCA, chain: Sequence[x509.Certificate], key: Any) -> Config:
    made = ca.write(chain, key)
    return replace(config, tls=replace(config.tls, cert_file=made.cert, key_file=made.key))


def trusting(config: Config, folder: Path, roots: Sequence[x509.Certificate]) -> Config:
    bundle = folder / "bundle.pem"
    bundle.write_bytes(b"".join(root.public_bytes(PEM) for root in roots))
    return replace(config, tls=replace(config.tls, client_ca_file=bundle))


def test_a_good_deployment_has_nothing_to_say(config: Config) -> None:
    assert {name: look(config) for name, look in package.LOOKS.items()} == dict.fromkeys(package.LOOKS, Looked())


@pytest.mark.parametrize(
    ("bend", "told", "kind"),
    [
        ({"not_before": NOW - timedelta(days=85), "not_after": NOW + timedelta(days=5, hours=1)}, "expires in 5 days; renew it now", "notes"),
        ({"not_before": NOW - timedelta(days=80), "not_after": NOW + timedelta(days=20, hours=1)}, "expires in 20 days; renew it in time", "notes"),
        ({"other_names": (x509.DNSName("broker.test"),)}, "not for the address of listen.grpc, 127.0.0.1: agents must be given one of 'broker.test'", "notes"),
    ],
)  # fmt: skip
def test_what_is_said_of_the_servers_certificate(
    config: Config, ca: TestCA, bend: dict[str, Any], told: str, kind: str
) -> None:
    leaf, key = ca.leaf("", **SERVER | bend)
    looked = tls.front_door(served_with(config, ca, [leaf], key))
    (text,) = getattr(looked, kind)
    assert told in text
    assert len(looked.errors) + len(looked.notes) == 1


def test_a_short_lived_certificate_is_no_note_on_its_first_day(config: Config, ca: TestCA) -> None:
    leaf, key = ca.leaf("", **SERVER, not_after=NOW + timedelta(hours=24))
    assert tls.front_door(served_with(config, ca, [leaf], key)) == Looked()


def test_every_interface_and_a_certificate_for_this_machine_alone(config: Config) -> None:
    everywhere = replace(config, listen=replace(config.listen, grpc=Address(host="0.0.0.0", port=0)))
    (note,) = tls.front_door(everywhere).notes
    assert "names this machine alone" in note


def test_the_chain_of_the_servers_certificate(config: Config, ca: TestCA) -> None:
    between = ca.intermediate("between")
    leaf, key = ca.leaf("", issuer=between, **SERVER)
    (note,) = tls.front_door(served_with(config, ca, [leaf], key)).notes
    assert "ends below 'CN=between'" in note
    assert tls.front_door(served_with(config, ca, [leaf, between.certificate], key)) == Looked()
    (note,) = tls.front_door(served_with(config, ca, [leaf, ca.root.certificate], key)).notes
    assert "certificate 2 did not issue the one before it" in note


def _root(*, usages: Sequence[str] | None = ("key_cert_sign",), days: tuple[int, int] = (-1, 365)) -> x509.Certificate:
    signer = new_authority("x", now=NOW)
    extensions: list[tuple[x509.ExtensionType, bool]] = [(x509.BasicConstraints(ca=True, path_length=None), True)]
    if usages is not None:
        extensions.append((key_usage(*usages), True))
    public = signer.key.public_key()
    start, end = (NOW + timedelta(days=day) for day in days)
    return signer.sign(new_builder(name_of("bent root"), public, start, end, extensions))


@pytest.mark.parametrize(
    ("root", "told"),
    [
        (_root(days=(-20, -1)), "'bent root' is not valid now; leave it out"),
        (_root(usages=None), "'bent root' has no key usage"),
        (_root(usages=("digital_signature",)), "'bent root' may not sign certificates (no keyCertSign)"),
        (_root(days=(-300, 10)), "'bent root' expires in 9 days"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_root(config: Config, ca: TestCA, tmp_path: Path, root: x509.Certificate, told: str) -> None:
    looked = tls.front_door(trusting(config, tmp_path, [ca.root.certificate, root]))
    assert [told in note for note in looked.notes] == [True]
    assert not looked.errors


def test_a_bundle_that_lets_nobody_in_or_everybody(config: Config, ca: TestCA, tmp_path: Path) -> None:
    looked = tls.front_door(trusting(config, tmp_path, [_root(days=(-20, -1))]))
    assert "nobody below them can call" in looked.errors[0]
    many: list[Authority] = [new_authority(f"root {number}", now=NOW) for number in range(21)]
    notes = tls.front_door(trusting(config, tmp_path, [one.certificate for one in many])).notes
    assert any("there are 21; is it the system's bundle?" in note for note in notes)
    leaf, _ = ca.leaf("spiffe://test.local/x")
    (error,) = tls.front_door(trusting(config, tmp_path, [ca.root.certificate, leaf])).errors
    assert "certificate 2 is not a CA" in error


def test_every_bundle_is_looked_at_and_operators_are_apart(config: Config, ca: TestCA, tmp_path: Path) -> None:
    (tmp_path / "operators.pem").write_bytes(_root(days=(-300, 10)).public_bytes(PEM))
    other = replace(config, operators=Operators(client_ca_file=tmp_path / "operators.pem"))
    (note,) = tls.front_door(other).notes
    assert note.startswith("roots of operators: 'bent root' expires in 9 days")
    mixed = replace(config, operators=Operators(client_ca_file=ca.root_path))
    (error,) = tls.front_door(mixed).errors
    assert "is in the agents' trust bundle too" in error


@pytest.mark.parametrize(("hours", "notes"), [(24, 0), (2, 1)])
def test_a_revocation_list_that_runs_out(config: Config, ca: TestCA, tmp_path: Path, hours: int, notes: int) -> None:
    crl = tmp_path / "agents.crl"
    until = NOW + timedelta(hours=hours)
    crl.write_bytes(revocation_list(ca.root, 1, last_update=NOW, next_update=until).public_bytes(PEM))
    looked = tls.front_door(replace(config, tls=replace(config.tls, crl_files=(crl,))))
    assert (looked.errors, len(looked.notes)) == ([], notes)


@pytest.mark.parametrize(
    ("content", "error", "note"),
    [
        (b"0123\n", "", ""),
        (b"0123\r\n", "", ""),
        (b"", "", "is empty; is something still to fill it?"),
        (b"0123\n4567\n", "holds more than a token", ""),
        (b"01 23", "holds more than a token", ""),
        (b"\xef\xbb\xbf4567", "begins with a byte order mark", ""),
    ],
)
def test_a_secret_is_one_line(config: Config, tmp_path: Path, content: bytes, error: str, note: str) -> None:
    (tmp_path / "secret-id").write_bytes(content)
    looked = files.secrets(config)
    assert ([error in one for one in looked.errors], len(looked.errors)) == ([True] * bool(error), bool(error))
    assert ([note in one for one in looked.notes], len(looked.notes)) == ([True] * bool(note), bool(note))
    assert "4567" not in str(looked)
    if "byte order" in error:
        bash(looked.errors[0].rpartition("; run ")[2], tmp_path)
        assert files.secrets(config) == Looked()


def test_an_address_that_is_taken_and_one_that_is_not_ours(config: Config) -> None:
    with socket.create_server(("127.0.0.1", config.listen.http.port)):
        (error,) = machine.listeners(config).errors
        assert f"listen.http {config.listen.http}: in use by another program" in error
        lock = config.store.path.with_name(config.store.path.name + ".lock")
        lock.write_text(f"{os.getpid()}\n")  # as the daemon that runs leaves it
        looked = machine.listeners(config)
        assert not looked.errors
        assert f"in use by the broker that runs (process {os.getpid()})" in looked.notes[0]
    elsewhere = replace(config, listen=replace(config.listen, grpc=Address(host="192.0.2.1", port=8443)))
    assert "not an address of this machine" in machine.listeners(elsewhere).errors[0]


def test_too_few_open_files_are_a_note(config: Config) -> None:
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    (note,) = machine.open_files(replace(config, limits=Limits(max_connections=allowed))).notes
    assert f"{allowed} open files are allowed here" in note
    needed = allowed + listeners.files_reserved(config)
    assert f"LimitNOFILE={needed}" in note


@pytest.mark.parametrize(
    ("free", "beside", "found"),
    [(1, "", (1, 0)), (12, "", (1, 0)), (12, "-reserve", (0, 0)), (64, "", (0, 1)), (1024, "", (0, 0))],
)
def test_room_on_the_disk(
    config: Config, monkeypatch: pytest.MonkeyPatch, free: int, beside: str, found: tuple[int, int]
) -> None:
    config.store.path.with_name(config.store.path.name + beside).touch()
    monkeypatch.setattr(machine, "_free", lambda _: free << 20)
    looked = machine.disk(config)
    assert (len(looked.errors), len(looked.notes)) == found


class Told:
    """A provider that has heard the time."""

    def __init__(self, off: timedelta) -> None:
        self._off = off

    def time_heard(self) -> datetime:
        return datetime.now(UTC) + self._off


@pytest.mark.parametrize(
    ("off", "errors", "remarks"),
    [(timedelta(0), 0, 0), (timedelta(seconds=-3), 0, 0), (timedelta(seconds=9), 0, 1), (timedelta(seconds=-40), 1, 0)],
)
def test_the_clock_against_a_providers(off: timedelta, errors: int, remarks: int) -> None:
    found = Findings()
    offline._compare_clocks("vault", Told(off), timedelta(seconds=30), found)  # type: ignore[arg-type]
    assert (len(found), len(found.remarks)) == (errors, remarks)
    if errors:
        assert "40 s ahead" in found[0]


def test_for_programs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", "--config", str(path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 0
    assert [one["look"] for one in told["looks"]] == ["config", *package.LOOKS]
    (path.parent / "secret-id").write_text("a b")
    assert main(["check", "--json", "--config", str(path)]) == os.EX_CONFIG
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert [bool(one["errors"]) for one in told["looks"] if one["look"] == "secret files"] == [True]
    assert captured.err.startswith("error: vault.approle.secret_id_file")


def test_a_look_is_a_function_and_a_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def look(config: Config) -> Looked:
        return Looked(errors=[f"{config.environment} is wrong"], notes=["so it is"])

    monkeypatch.setitem(package.LOOKS, "one more", look)
    assert main(["check", "--config", str(path)]) == os.EX_CONFIG
    captured = capsys.readouterr()
    assert "one more      1 problem\n              note: so it is\n" in captured.out
    assert captured.err == "error: dev is wrong\n"


def test_a_tier_that_tells_somebody_whom_the_config_does_not_name_is_a_note(config: Config) -> None:
    config.scopes.file.write_text(SCOPES.replace("scopes:\n", "tiers: {high: {compensate: undo}}\nscopes:\n", 1))
    (note,) = state.scope_map(config).notes
    assert "[compensation.undo]" in note
    named = replace(config, compensation={"undo": Receiver(url="https://etl.acme.internal/undo")})
    assert state.scope_map(named) == Looked()


def test_a_receivers_token_is_a_secret_like_others(config: Config, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one\ntwo\n")
    receiver = Receiver(url="https://etl.acme.internal/undo", token_file=token)
    (error,) = files.secrets(replace(config, compensation={"undo": receiver})).errors
    assert error.startswith("compensation.undo.token_file")
