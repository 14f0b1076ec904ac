"""`stepcred-broker deny` on a file that people edit too."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.__main__ import main
from broker.errors import ConfigError
from broker.identity.deny_list import DenyList, Entry, parse_deny_list
from broker.identity.deny_text import add_entry, remove_entries
from broker.identity.leaf import certificate_of
from tests.support.certs import TestCA

LOAD = "spiffe://test.local/workflow/nightly/step/load"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "denied.toml"


def deny(file: Path, command: str, *arguments: str) -> int:
    return main(["deny", command, "--file", str(file), *arguments])


def listed(file: Path) -> DenyList:
    return parse_deny_list(file.read_bytes(), "list")


def test_the_first_entry_makes_the_file_and_a_second_keeps_its_comments(file: Path) -> None:
    assert deny(file, "add", "--agent", LOAD, "--why", 'its "key" was in a log\\') == 0
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("# of the security team\n" + file.read_text() + "# ticket 7\n")
    assert deny(file, "add", "--serial", "00:7B:22", "--issuer", "CN=agents") == 0
    text = file.read_text()
    assert text.startswith("# of the security team\n")
    assert "# ticket 7" in text
    first, second = listed(file).entries
    assert first == Entry(agent=LOAD, why='its "key" was in a log\\')
    assert second == Entry(serial="7b22", issuer="CN=agents")


def test_a_certificate_is_denied_by_its_key_or_by_its_number(file: Path, tmp_path: Path) -> None:
    creds = TestCA(tmp_path).agent(LOAD)
    known = certificate_of(x509.load_pem_x509_certificate(creds.cert.read_bytes()))
    for more in ((), ("--serial-only",)):
        assert deny(file, "add", "--cert", str(creds.cert), *more) == 0
        assert listed(file).names("spiffe://test.local/a", known)
        assert deny(file, "remove", "--cert", str(creds.cert), *more) == 0
        assert not listed(file).entries


def test_a_ca_cannot_be_denied(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An entry over its key would deny nobody who hangs from it."""
    assert deny(file, "add", "--cert", str(TestCA(tmp_path).root_path)) == os.EX_DATAERR
    assert "is a CA's" in capsys.readouterr().err
    assert not file.exists()


def test_what_is_removed_leaves_the_rest_as_it_was(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(f'# first\n[[denied]]\nagent = "{LOAD}"\n\n[[denied]]  # second\nserial = "1"\nwhy = "x"\n')
    assert deny(file, "remove", "--agent", LOAD) == 0
    assert file.read_text() == '# first\n[[denied]]  # second\nserial = "1"\nwhy = "x"\n'
    assert deny(file, "remove", "--agent", LOAD) == 1
    assert "no entry says exactly" in capsys.readouterr().err
    file.write_text('denied = [{serial = "1"}, {serial = "2"}]\n')
    assert deny(file, "remove", "--serial", "1") == os.EX_CONFIG
    assert "edit it by hand" in capsys.readouterr().err


def test_list(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deny(file, "add", "--agent", LOAD, "--why", "stolen")
    deny(file, "add", "--key", "sha256:" + "ab" * 32)
    capsys.readouterr()
    assert deny(file, "list") == 0
    assert capsys.readouterr().out == f"agent={LOAD}  # stolen\nkey=sha256:{'ab' * 32}\n"
    assert deny(file, "list", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["denied"][0] == {"agent": LOAD, "why": "stolen"}


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), os.EX_USAGE, "name one of"),
        (("--agent", "a", "--serial", "1"), os.EX_USAGE, "name one of"),
        (("--agent", "nonsense"), os.EX_USAGE, "agent: not a workload's SPIFFE ID"),
        (("--key", "sha256:AB"), os.EX_USAGE, "key: write"),
        (("--serial", "x"), os.EX_USAGE, "serial: write it in hexadecimal"),
        (("--issuer", "CN=a", "--agent", LOAD), os.EX_USAGE, "name one of"),
        (("--serial", "1", "--issuer", "CN = a"), os.EX_USAGE, "issuer: write it as RFC 4514"),
        (("--cert", "nowhere.pem"), os.EX_NOINPUT, "does not exist"),
        (("--cert", __file__), os.EX_DATAERR, "holds no PEM certificate"),
    ],
)
def test_what_names_nobody_is_not_written(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, told: str
) -> None:
    assert deny(file, "add", *arguments) == code
    assert told in capsys.readouterr().err
    assert not file.exists()


def test_a_config_with_other_mistakes_stops_nobody_from_denying(tmp_path: Path, file: Path) -> None:
    """The list that it names is not there yet, nor is anything else."""
    config = tmp_path / "broker.toml"
    config.write_text('[tls]\ndeny_file = "denied.toml"\ncert_file = "nowhere.pem"\n')
    assert main(["deny", "add", "--config", str(config), "--agent", LOAD]) == 0
    assert listed(file).entries == (Entry(agent=LOAD),)
    config.write_text("[tls]\n")
    assert main(["deny", "add", "--config", str(config), "--agent", LOAD]) == os.EX_CONFIG


def test_a_list_that_is_broken_is_not_made_worse(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("[[denied]]\n")
    assert deny(file, "add", "--agent", LOAD) == os.EX_CONFIG
    assert "entry 1: name exactly one" in capsys.readouterr().err
    assert file.read_text() == "[[denied]]\n"
    assert main(["deny", "add", "--agent", LOAD]) == os.EX_USAGE
    assert "--config" in capsys.readouterr().err


_ISSUERS = st.one_of(st.sampled_from(["", "CN=a", r"CN=a\, b,O=c"]), st.text(max_size=10))
_ENTRY = st.one_of(
    st.builds(Entry, agent=st.sampled_from([LOAD, LOAD + "/*", "spiffe://a/b"]), why=st.text(max_size=20)),
    st.builds(Entry, serial=st.sampled_from(["1", "ab"]), issuer=_ISSUERS, why=st.text(max_size=20)),
    st.builds(Entry, key=st.sampled_from(["ab" * 32, "cd" * 32])),
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_ENTRY, max_size=4), _ENTRY)
def test_whatever_is_added_is_read_again_and_can_be_removed(before: list[Entry], entry: Entry) -> None:
    text = "# by hand\n"
    try:
        for one in before:
            text = add_entry(text, one, "list")
        more = add_entry(text, entry, "list")
    except ConfigError:
        return  # a lone surrogate is no text of a file
    assert list(parse_deny_list(more.encode(), "list").entries) == [*before, entry]
    less, removed = remove_entries(more, entry, "list")
    assert removed >= 1
    assert entry not in parse_deny_list(less.encode(), "list").entries
