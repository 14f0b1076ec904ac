"""`stepcred admin top` without a terminal."""

from __future__ import annotations

import json
import sys

import grpc
import pytest

from stepcred.cli import _app, _exits
from stepcred.cli._top import command
from tests.fakes.broker_server import Refusal
from tests.fakes.operator_server import FakeOperatorService


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str]) -> None:
    """Every test here has an operator's settings."""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["stepcred", "admin", "top", *arguments])
    return _app.run()


def test_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--once") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "stepcred  prod  epoch 12  22:14:40 UTC  steps 6  leases 8  FROZEN 1"
    for told in (
        "REVOCATIONS 3",
        "vault: 503 Service Unavailable: standby node is not active",
        "GUARD 2",
        "lake-write",
    ):
        assert told in out
    assert "\x1b" not in out
    assert "…" not in out


def test_once_of_a_quiet_broker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], service: FakeOperatorService
) -> None:
    for name in ("steps", "leases", "keys", "approvals", "freezes", "alerts"):
        setattr(service, name, [])
    assert run(monkeypatch, "--once") == 0
    out = capsys.readouterr().out
    for told in ("STEPS: no step is open", "REVOCATIONS: no revocation is outstanding", "GUARD: no key is cooling"):
        assert told in out


def test_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["at"] == "2026-12-01T22:14:40+00:00"
    assert {lease["state"] for lease in told["leases"]} == {"ACTIVE", "INTENT", "REVOKING", "IN_DOUBT"}
    assert told["cut"] == []


def test_without_a_terminal_it_says_what_to_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], service: FakeOperatorService
) -> None:
    assert run(monkeypatch) == _exits.USAGE
    assert "--once" in capsys.readouterr().err
    assert not service.calls


def test_without_the_extra_it_says_which(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "_terminal", lambda: True)
    monkeypatch.setitem(sys.modules, "textual", None)
    assert run(monkeypatch) == _exits.UNAVAILABLE
    assert "stepcred[admin]" in capsys.readouterr().err
    assert run(monkeypatch, "--once") == 0


@pytest.mark.parametrize("interval", ["0", "0.1", "-3", "nan", "86400"])
def test_a_broker_is_not_asked_without_a_pause(monkeypatch: pytest.MonkeyPatch, interval: str) -> None:
    assert run(monkeypatch, "--once", "--interval", interval) == _exits.USAGE


def test_no_broker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], service: FakeOperatorService
) -> None:
    service.stop()
    assert run(monkeypatch, "--once") == _exits.UNAVAILABLE
    assert service.addr in capsys.readouterr().err


@pytest.mark.parametrize("live", [True, False])
def test_who_has_no_role_is_told_before_anything_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    service: FakeOperatorService,
    live: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(command, "_terminal", lambda: True)
    service.refusal = Refusal(code=grpc.StatusCode.PERMISSION_DENIED, message="no role", reason="NOT_AN_OPERATOR")
    assert run(monkeypatch, *([] if live else ["--once"])) == _exits.DENIED
    captured = capsys.readouterr()
    assert "NOT_AN_OPERATOR" in captured.err
    assert not captured.out
