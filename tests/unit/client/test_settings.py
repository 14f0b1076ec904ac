"""Settings: arguments before variables, every problem at once, nothing sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import stepcred
from stepcred import _settings
from tests.fakes.broker_server import FakeBroker
from tests.support.certs import Creds, TestCA
from tests.unit.client.conftest import Pki


@pytest.fixture
def stranger(tmp_path: Path) -> TestCA:
    """A CA of another trust domain."""
    return TestCA(tmp_path, "other.local")


def _read(environ: dict[str, str], **given: str) -> _settings.Settings:
    named = {name: given.get(name) for name in ("addr", "cert", "key", "ca")}
    return _settings.read(addr=named["addr"], cert=named["cert"], key=named["key"], ca=named["ca"], environ=environ)


def test_everything_missing_is_named_at_once() -> None:
    with pytest.raises(stepcred.SettingsError) as caught:
        _read({})
    assert [problem.split()[0] for problem in caught.value.problems] == [
        "STEPCRED_ADDR",
        "STEPCRED_CERT",
        "STEPCRED_KEY",
        "STEPCRED_CA",
    ]
    assert all("is not set:" in problem for problem in caught.value.problems)


def test_arguments_win_over_variables(environ: dict[str, str]) -> None:
    assert _read(environ, addr="other.test:1").addr == "other.test:1"


def test_each_unusable_setting_is_named(environ: dict[str, str], tmp_path: Path) -> None:
    broken = {**environ, "STEPCRED_ADDR": "https://broker.test", "STEPCRED_KEY": str(tmp_path / "none.key")}
    with pytest.raises(stepcred.SettingsError) as caught:
        _read(broken)
    assert "must be host:port" in caught.value.problems[0]
    assert "cannot read" in caught.value.problems[1]
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("name", ["CERT", "KEY", "CA"])
def test_a_file_that_is_no_pem_is_not_taken_for_an_unreachable_broker(
    environ: dict[str, str], tmp_path: Path, name: str
) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    with pytest.raises(stepcred.SettingsError, match=f"STEPCRED_{name}"):
        _read({**environ, f"STEPCRED_{name}": str(junk)})


def test_a_key_of_another_certificate_is_refused(environ: dict[str, str], pki: Pki) -> None:
    other = pki.authority.agent("spiffe://test.local/other")
    with pytest.raises(stepcred.SettingsError, match="STEPCRED_KEY"):
        _read({**environ, "STEPCRED_KEY": str(other.key)})


def test_pem_text_in_a_variable_is_named_and_never_shown(environ: dict[str, str], pki: Pki) -> None:
    with pytest.raises(stepcred.SettingsError, match="STEPCRED_KEY holds PEM text itself") as caught:
        _read({**environ, "STEPCRED_KEY": pki.agent.key.read_text()})
    assert "PRIVATE KEY" not in str(caught.value)


def test_missing_names_are_named(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEPCRED_RUN")
    monkeypatch.delenv("STEPCRED_STEP")
    with (
        stepcred.connect() as broker,
        pytest.raises(stepcred.SettingsError, match=r"STEPCRED_RUN.*STEPCRED_STEP"),
    ):
        broker.step(scopes=[])


def test_the_private_key_is_not_in_the_settings_repr(environ: dict[str, str]) -> None:
    settings = _read(environ)
    assert "PRIVATE KEY" not in repr(settings) + repr(settings.source.current())


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o640, 0), (0o440, 0), (0o644, 1), (0o604, 1)])
def test_a_key_that_everybody_can_read_is_warned_of_once_and_used(
    environ: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: int
) -> None:
    key = tmp_path / "open-key.pem"
    key.write_bytes(Path(environ["STEPCRED_KEY"]).read_bytes())
    key.chmod(mode)
    for _ in range(2):
        assert b"PRIVATE KEY" in _read({**environ, "STEPCRED_KEY": str(key)}).source.current().key
    assert [record.getMessage().count(f"{key} can be read by everybody") for record in caplog.records] == [1] * warned
    assert "PRIVATE KEY" not in caplog.text


def _refused(address: str, agent: Creds, *, ca: Path | None = None) -> str:
    cert, key, roots = str(agent.cert), str(agent.key), str(ca or agent.ca)
    with stepcred.connect(address, cert, key, roots, timeout=5) as broker, pytest.raises(stepcred.TlsRefused) as caught:
        broker.whoami()
    return str(caught.value)


def test_a_refused_client_certificate_is_explained(fake: FakeBroker, pki: Pki, stranger: TestCA) -> None:
    message = _refused(fake.addr, stranger.agent("spiffe://other.local/x"), ca=pki.agent.ca)
    assert "the broker refused this client's certificate" in message
    assert not fake.calls


def test_an_expired_client_certificate_is_explained(fake: FakeBroker, pki: Pki) -> None:
    expired = pki.authority.agent("spiffe://test.local/x", not_after=datetime.now(UTC) - timedelta(seconds=1))
    assert "not expired" in _refused(fake.addr, expired)


def test_a_broker_that_the_client_does_not_trust_is_explained(fake: FakeBroker, pki: Pki, stranger: TestCA) -> None:
    assert "does not trust the broker's certificate" in _refused(fake.addr, pki.agent, ca=stranger.root_path)


def test_a_broker_of_another_name_is_explained(stranger: TestCA) -> None:
    named = stranger.server(["broker.test"])
    with FakeBroker(tls=(*named, stranger.root_path)) as fake:
        assert "not for this host name" in _refused(fake.addr, stranger.agent("spiffe://other.local/x"))


def test_a_server_without_tls_is_explained(pki: Pki) -> None:
    with FakeBroker() as plain:
        assert "does not speak TLS" in _refused(plain.addr, pki.agent)
        assert not plain.calls


def test_a_key_in_the_place_of_its_path_is_not_shown() -> None:
    pem = "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\n"
    with pytest.raises(stepcred.SettingsError) as caught:
        _settings.read(addr="broker:8443", cert=None, key=pem, ca=None, environ={})
    assert "STEPCRED_KEY holds PEM text itself" in str(caught.value)
    assert "s3cret" not in str(caught.value)
