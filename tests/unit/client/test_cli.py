"""`stepcred can`, `whoami`, `--version`: in this process, through the entry point's own function."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from stepcred.cli import _app
from tests.fakes.broker_server import DENIED, FakeBroker


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str]) -> None:
    """Every test here has the broker's settings."""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["stepcred", *arguments])
    return _app.run()


def test_can_says_yes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker) -> None:
    assert run(monkeypatch, "can", "orders-read") == 0
    assert capsys.readouterr().out == "yes: orders-read for 10 min (tier low, EXACT)\n"
    assert not fake.requests("BeginStep")
    (request,) = fake.requests("CheckAccess")
    assert (request.name.workflow, list(request.scopes)) == ("nightly-etl", ["orders-read"])


def test_can_says_why_not_as_far_as_it_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "can", "out-of-hours", "--run", "43") == 1
    out = capsys.readouterr().out
    for told in ("no: out-of-hours", "SCOPE_REFUSED", "nightly-load (scopes.yaml:31)", "07:00", "ref-8"):
        assert told in out
    assert run(monkeypatch, "can", "unknown") == 1
    assert "rule" not in capsys.readouterr().out


def test_can_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "can", "out-of-hours", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["access"], told["position"], told["ttl"]) == ("REFUSED", "scopes.yaml:31", None)


def test_whoami(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "whoami") == 0
    out = capsys.readouterr().out
    for told in ("spiffe://test/workflow/nightly-etl/step/load", "load workflow=nightly-etl", "orders-read"):
        assert told in out
    assert run(monkeypatch, "whoami", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["workloads"] == {"load": {"workflow": "nightly-etl"}}


def test_a_refusal_is_one_line_with_reason_and_reference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    fake.script("WhoAmI", DENIED)
    assert run(monkeypatch, "whoami") == 77
    assert capsys.readouterr().err == "stepcred: access denied [ACCESS_DENIED, reference ref-1]\n"


@pytest.mark.parametrize("command", [["whoami"], ["whoami", "--json"], ["can", "orders-read"]])
def test_an_answer_that_cannot_be_written_is_one_line(command: list[str]) -> None:
    argv = [sys.executable, "-c", "from stepcred.cli import main; main()", *command]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (result.returncode, result.stderr) == (74, "stepcred: cannot write the answer: No space left on device\n")


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("stepcred 0.")


def test_an_error_is_an_object_too_for_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    fake.script("CheckAccess", DENIED)
    assert run(monkeypatch, "can", "orders-read", "--json") == 77
    told = capsys.readouterr()
    assert "ACCESS_DENIED" in told.err
    held = json.loads(told.out)
    assert ("ACCESS_DENIED" in held["error"], held["exit_code"]) == (True, 77)
    assert run(monkeypatch, "can", "--json") == 64
    assert json.loads(capsys.readouterr().out) == {"error": "wrong arguments", "exit_code": 64}
    fake.script("BeginStep", DENIED)
    assert run(monkeypatch, "exec", "--scope", "orders-read", "--", "true", "--json") == 77
    assert not capsys.readouterr().out  # the child's arguments, and its stdout


@pytest.mark.parametrize("asked", [["can", "orders-read"], ["whoami"]])
def test_a_reader_that_has_gone_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    """1 would be `can`'s no."""

    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Gone())
    assert run(monkeypatch, *asked) == 74
