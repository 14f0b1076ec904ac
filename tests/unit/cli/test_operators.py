"""`stepcred-broker operators`: every mistake, a key that is never shown, and a secret that goes to a terminal alone."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pyotp
import pytest

from broker.__main__ import main
from broker.operators.model import Sealed
from broker.operators.sealing import generate_key, parse_key

GOOD = """version: 1
operators:
  ann:
    ids: ["spiffe://test.acme/operator/ann"]
    roles: [approver]
    second_factor: {revision: 4, sealed: "%s"}
  bob: {ids: ["spiffe://test.acme/operator/bob"], roles: [responder]}
"""


@pytest.fixture(autouse=True)
def _leave_this_process_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.cli.operators.process.harden", list)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    path = tmp_path / "factors.key"
    generate_key(path)
    return path


@pytest.fixture
def people(tmp_path: Path, key: Path) -> Path:
    from broker.secret import Secret

    sealed = parse_key(key.read_bytes()).seal("ann", 4, Secret(pyotp.random_base32()))
    path = tmp_path / "operators.yaml"
    path.write_text(GOOD % sealed.text)
    return path


def test_a_good_file_is_fine_and_what_is_not_meant_is_a_warning(
    people: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["operators", "check", str(people), "--key", str(key)]) == 0
    told = capsys.readouterr().out
    assert "warning: bob is responder and has no second factor" in told
    assert told.endswith("operators.yaml: 0 mistakes, 2 warnings\n")
    assert main(["operators", "check", str(people), "--key", str(key), "--strict"]) == 1
    capsys.readouterr()
    assert main(["operators", "check", str(people), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mistakes"] == []
    assert found["warnings"][-1] == "second factors were not opened: give --key or --config"


def test_every_mistake_is_said_and_is_exit_1(people: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people.write_text(people.read_text().replace("revision: 4", "revision: 5").replace("[responder]", "[boss]"))
    assert main(["operators", "check", str(people), "--key", str(key)]) == 1
    told = capsys.readouterr().out
    assert f"error: {people}:6:42: of operator 'ann': was not sealed" in told
    assert f"error: {people}:7:" in told
    assert "2 mistakes, 0 warnings" in told


def test_a_map_that_nobody_can_approve_under_is_told(
    people: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scopes = tmp_path / "scopes.yaml"
    scopes.write_text(
        "version: 1\nenvironment: prod\ntrust_domain: test.acme\n"
        "workloads: {load: {id: 'spiffe://test.acme/load', owners: [ann]}}\n"
        "scopes: {lake: {vault: {role: r}, tier: high, approvals: 1}}\n"
        "grants: {g: {workloads: [load], workflows: ['*'], scopes: [lake]}}\n"
    )
    assert main(["operators", "check", str(people), "--key", str(key), "--scopes", str(scopes)]) == 0
    assert "scope lake for workload load needs 1 to approve, and nobody can" in capsys.readouterr().out


def test_a_file_that_is_not_there_and_a_key_that_is_none(
    people: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["operators", "check", str(tmp_path / "none.yaml")]) == os.EX_CONFIG
    assert "does not exist" in capsys.readouterr().err
    key.chmod(0o644)
    assert main(["operators", "check", str(people), "--key", str(key)]) == os.EX_CONFIG
    assert "chmod 600" in capsys.readouterr().err
    key.chmod(0o600)
    key.write_text("no key")
    assert main(["operators", "seal", "ann", "--key", str(key), "--show"]) == os.EX_CONFIG
    told = capsys.readouterr().err
    assert "is no sealing key" in told
    assert "no key\n" not in told


def test_a_key_is_made_once_private_and_never_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new.key"
    assert main(["operators", "key", str(path)]) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() not in capsys.readouterr().out
    before = path.read_bytes()
    assert main(["operators", "key", str(path)]) == os.EX_CANTCREAT
    assert path.read_bytes() == before


def test_a_secret_does_not_go_to_a_pipe_unless_it_is_meant(
    people: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["operators", "seal", "ann", "--key", str(key), "--file", str(people)]
    assert main(arguments) == os.EX_USAGE
    said = capsys.readouterr()
    assert (said.out, "give --show" in said.err) == ("", True)
    assert main([*arguments, "--show", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    sealed = Sealed(revision=made["second_factor"]["revision"], text=made["second_factor"]["sealed"])
    assert sealed.revision == 5  # after the one in the file
    app = pyotp.parse_uri(made["uri"])
    assert parse_key(key.read_bytes()).open("ann", sealed).reveal() == app.secret
    assert app.issuer == "stepcred"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nobody", "--file", "FILE", "--key", "KEY"], (os.EX_CONFIG, "no operator is named 'nobody'")),
        (["an", "--file", "FILE", "--key", "KEY"], (os.EX_CONFIG, "did you mean 'ann'?")),
        (["a b", "--key", "KEY"], (os.EX_USAGE, "not a name")),
        (["$(id)", "--key", "KEY"], (os.EX_USAGE, "not a name")),
        (["ann"], (os.EX_USAGE, "no key to seal with")),
    ],
)
def test_what_cannot_be_sealed_is_said(
    arguments: list[str], told: tuple[int, str], people: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [{"FILE": str(people), "KEY": str(key)}.get(one, one) for one in arguments]
    assert main(["operators", "seal", *filled, "--show"]) == told[0]
    assert told[1] in capsys.readouterr().err


def test_at_a_terminal_it_is_shown_with_a_code_to_scan(people: Path, key: Path) -> None:
    outer, inner = os.openpty()
    command = [sys.executable, "-m", "broker", "operators", "seal", "bob", "--key", str(key), "--file", str(people)]
    with subprocess.Popen(command, stdout=inner, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL) as child:
        os.close(inner)
        told = b""
        while part := _read(outer):
            told += part
    os.close(outer)
    assert child.returncode == 0, told.decode()
    text = told.decode()
    assert "otpauth://totp/stepcred:bob?secret=" in text
    assert "second_factor: {revision: 1, sealed: " in text
    assert "\N{LOWER HALF BLOCK}" in text


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # its other end is closed
        return b""
