from __future__ import annotations

import json
import os
import stat
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from broker.cli.dev_ca import app
from broker.errors import BrokerError, ConfigError
from broker.identity import Authenticator, dev_ca
from tests.fakes.clock import FakeClock
from tests.support.doors import door

DOMAIN = "dev.acme.internal"
ID = f"spiffe://{DOMAIN}/workflow/nightly/step/load"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEPCRED_BROKER_ENVIRONMENT", raising=False)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "ca"


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(one) for one in arguments], env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), "a traceback reached the user"
    return result.exit_code, result.output


def init(directory: Path, *more: str) -> tuple[int, str]:
    return run("init", "--dir", directory, "--trust-domain", DOMAIN, *more)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_init_and_issue_make_certificates_that_the_broker_accepts(directory: Path, tmp_path: Path) -> None:
    assert init(directory)[0] == 0
    code, output = run("issue", "--dir", directory, "--id", ID, "--out", tmp_path / "certs" / "load")
    assert code == 0
    assert f"export STEPCRED_CERT={tmp_path}/certs/load.pem" in output
    leaf = (tmp_path / "certs" / "load.pem").read_bytes()
    authenticator = Authenticator(door(directory / "ca.pem", DOMAIN), FakeClock(datetime.now(UTC)))
    agent = authenticator.authenticate(leaf, tls_version="TLSv1.3", peer="test")
    assert agent.spiffe_id == ID
    assert timedelta(hours=23) < agent.not_after - datetime.now(UTC) <= timedelta(hours=24)


def test_keys_and_their_directory_are_for_the_owner_alone(directory: Path) -> None:
    before = os.umask(0)
    try:
        init(directory)
        run("issue", "--dir", directory, "--server", "localhost")
        run("issue", "--dir", directory, "--id", ID, "--out", directory / "issued" / "load")
    finally:
        os.umask(before)
    keys = [path for path in directory.rglob("*") if path.name.endswith("-key.pem")]
    assert len(keys) == 4
    assert {mode(path) for path in keys} == {0o600}
    assert {mode(directory), mode(directory / "issued")} == {0o700}
    assert not list(directory.rglob("*.new"))


def test_operators_hang_from_a_root_of_their_own(directory: Path, tmp_path: Path) -> None:
    init(directory)
    operator = f"spiffe://{DOMAIN}/operator/ann"
    code, output = run("issue", "--dir", directory, "--id", operator, "--operator", "--out", tmp_path / "ann")
    assert code == 0
    assert f"STEPCRED_ADMIN_CA={directory}/ca.pem" in output, "an operator verifies the server, whose root that is"
    leaf = (tmp_path / "ann.pem").read_bytes()

    def ask(bundle: str) -> str:
        checks = Authenticator(door(directory / bundle, DOMAIN), FakeClock(datetime.now(UTC)))
        return checks.authenticate(leaf, tls_version="TLSv1.3", peer="test").spiffe_id

    assert ask("operator-ca.pem") == operator
    with pytest.raises(BrokerError):
        ask("ca.pem")


def test_a_server_certificate_holds_its_names(directory: Path) -> None:
    init(directory)
    assert (
        run("issue", "--dir", directory, "--server", "broker.local", "--server", "127.0.0.1", "--server", "::1")[0] == 0
    )
    certificate = x509.load_pem_x509_certificate((directory / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.local"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_what_it_prints_for_the_daemon_is_the_tls_section_of_its_config(directory: Path) -> None:
    init(directory)
    printed = tomllib.loads(run("issue", "--dir", directory, "--server", "localhost")[1])
    assert printed["tls"] == {
        "cert_file": str(directory / "server.pem"),
        "key_file": str(directory / "server-key.pem"),
        "client_ca_file": str(directory / "ca.pem"),
    }


@pytest.mark.parametrize("environment", ["prod", "production", "staging", "", "Dev", "notdev", "prod dev"])
def test_only_dev_environments(directory: Path, environment: str) -> None:
    code, output = init(directory, "--environment", environment)
    assert code == os.EX_CONFIG
    assert "'dev'" in output
    assert not directory.exists()


def test_the_daemons_own_environment_variable_is_obeyed(directory: Path) -> None:
    arguments = ("init", "--dir", directory, "--trust-domain", DOMAIN)
    assert run(*arguments, env={"STEPCRED_BROKER_ENVIRONMENT": "prod"})[0] == os.EX_CONFIG
    assert not directory.exists()


def test_nothing_is_issued_from_a_directory_of_another_environment(directory: Path, tmp_path: Path) -> None:
    init(directory)
    (directory / "dev-ca.json").write_text(json.dumps({"environment": "prod", "trust_domain": DOMAIN}))
    assert run("issue", "--dir", directory, "--id", ID, "--out", tmp_path / "load")[0] == os.EX_CONFIG
    assert init(directory)[0] == os.EX_CONFIG
    assert not (tmp_path / "load.pem").exists()


def test_init_again_keeps_the_keys_and_another_domain_is_refused(directory: Path) -> None:
    init(directory)
    key = (directory / "ca-key.pem").read_bytes()
    assert init(directory)[0] == 0
    code, output = run("init", "--dir", directory, "--trust-domain", "other.internal")
    assert (code, "already holds" in output) == (os.EX_CONFIG, True)
    assert (directory / "ca-key.pem").read_bytes() == key


def test_somebody_elses_ca_is_not_overwritten(directory: Path) -> None:
    directory.mkdir()
    (directory / "ca-key.pem").write_text("a real one")
    assert init(directory)[0] == os.EX_CONFIG
    assert (directory / "ca-key.pem").read_text() == "a real one"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), os.EX_USAGE),
        (("--id", ID), os.EX_USAGE),
        (("--id", ID, "--out", "x", "--server", "localhost"), os.EX_USAGE),
        (("--server", "localhost", "--operator"), os.EX_USAGE),
        (("--id", "spiffe://Dev/a", "--out", "x"), os.EX_USAGE),
        (("--id", "spiffe://other.internal/a", "--out", "x"), os.EX_CONFIG),
        (("--id", ID, "--out", "{dir}/ca"), os.EX_CONFIG),
        (("--id", ID, "--out", "{dir}/x/../operator-ca"), os.EX_CONFIG),
        (("--id", ID, "--out", "/proc/nowhere/x"), os.EX_CANTCREAT),
        (("--server", "bröker"), os.EX_CONFIG),
    ],
)
def test_wrong_arguments_are_one_clear_line(
    arguments: tuple[str, ...], code: int, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    init(directory)
    root = (directory / "ca.pem").read_bytes()
    found, output = run("issue", "--dir", directory, *(one.format(dir=directory) for one in arguments))
    assert found == code, output
    assert output.startswith("error: ")
    assert output.count("\n") == 1
    assert (directory / "ca.pem").read_bytes() == root
    assert not (tmp_path / "x.pem").exists()


def test_a_directory_without_a_ca_says_how_to_make_one(directory: Path) -> None:
    code, output = run("issue", "--dir", directory, "--server", "localhost")
    assert code == os.EX_CONFIG
    assert "dev-ca init" in output


@pytest.mark.parametrize("command", [("--help",), ("init", "--help"), ("issue", "--help")])
def test_help(command: tuple[str, ...]) -> None:
    code, output = run(*command)
    assert code == 0
    assert "--" in output


def test_an_expired_ca_issues_nothing(directory: Path) -> None:
    clock = FakeClock(datetime.now(UTC))
    dev_ca.init(directory, DOMAIN, "dev", clock=clock)
    clock.advance(29.5 * 86400)
    issued = dev_ca.issue_agent(directory, ID, directory / "late", clock=clock)
    leaf = x509.load_pem_x509_certificate(issued.cert.read_bytes())
    root = x509.load_pem_x509_certificate(issued.ca.read_bytes())
    assert leaf.not_valid_after_utc == root.not_valid_after_utc, "a leaf never outlives its root"
    clock.advance(86400)
    with pytest.raises(ConfigError, match="expired"):
        dev_ca.issue_agent(directory, ID, directory / "later", clock=clock)
