"""`stepcred exec` and `can` where operators must approve first."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC

import pytest

from stepcred import _refusals
from stepcred.cli import _app
from tests.fakes.broker_server import FakeBroker

SCOPE = "orders-db"
EXEC = ["exec", "--scope", SCOPE]


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str], fake: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_refusals, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(_refusals, "LONGEST_PAUSE", 0.1)
    fake.needs[SCOPE] = 2


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["stepcred", *arguments])
    return _app.run()


def shown(fake: FakeBroker, *, given: int = 0) -> str:
    (approval,) = fake.approvals.values()
    return f"{approval.id} ({given} of 2), until {approval.expires_at.astimezone(UTC):%Y-%m-%d %H:%MZ}"


def once_asked(fake: FakeBroker, word: Callable[[], None], times: int = 1) -> threading.Thread:
    """Says it, each time after a look of the client's that saw nothing new."""

    def speak() -> None:
        for _ in range(times):
            seen = len(fake.requests("CheckAccess"))
            fake.wait_for(lambda seen=seen: len(fake.requests("CheckAccess")) > seen + 1)  # type: ignore[misc]
            word()

    thread = threading.Thread(target=speak)
    thread.start()
    return thread


def test_without_the_option_it_is_asked_for_said_and_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    assert run(monkeypatch, *EXEC, "--scope", "orders-read", "--", "echo", "ran") == 75
    (approval,) = fake.approvals.values()
    told = capsys.readouterr()
    assert told.err.splitlines() == [
        f"stepcred: orders-db: needs approval {shown(fake)}; an operator runs: stepcred admin approvals approve "
        + approval.id,
        "stepcred: no credential was issued",
    ]
    assert fake.only_step().ended
    fake.approve(SCOPE)
    fake.approve(SCOPE)
    assert run(monkeypatch, *EXEC, "--", "true") == 0  # the later try


def test_with_it_the_child_runs_once_all_is_approved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    lines: list[str] = []

    def approve() -> None:
        lines.append(shown(fake, given=len(lines)))
        fake.approve(SCOPE)

    operators = once_asked(fake, approve, times=2)
    argv = [*EXEC, "--scope", "orders-read", "--approval-timeout", "2m", "--", "true"]
    assert run(monkeypatch, *argv) == 0
    operators.join(timeout=10)
    told = capsys.readouterr().err.splitlines()
    command = f"an operator runs: stepcred admin approvals approve {lines[0].split()[0]}"
    assert told == [
        *[f"stepcred: orders-db: waiting for approval {line}; {command}" for line in lines],
        "stepcred: 2 credentials dead, proven in 41 ms",
    ]
    # Asked for first, and nothing minted before it is there.
    assert [request.scope for request in fake.requests("IssueCredential")] == [SCOPE, SCOPE, "orders-read"]


def test_a_denial_is_77_and_a_silence_75(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    operators = once_asked(fake, lambda: fake.end_approvals(SCOPE))
    assert run(monkeypatch, *EXEC, "--approval-timeout", "1h", "--", "true") == 77
    operators.join(timeout=10)
    assert "APPROVAL_DECIDED" in capsys.readouterr().err
    assert run(monkeypatch, *EXEC, "--approval-timeout", "1s", "--", "true") == 75
    assert all(step.ended for step in fake.steps.values())


def test_a_step_of_a_launcher_waits_too(monkeypatch: pytest.MonkeyPatch, fake: FakeBroker) -> None:
    for name in ("WORKFLOW", "RUN", "STEP"):
        monkeypatch.delenv(f"STEPCRED_{name}")
    names = ["--workflow", "w", "--run", "r", "--step", "s"]
    assert run(monkeypatch, "launch", "--for", "spiffe://test.local/workflow/w/step/s", *names, SCOPE) == 0
    monkeypatch.setenv("STEPCRED_STEP_HANDLE", fake.only_step().handle)
    operators = once_asked(fake, lambda: fake.approve(SCOPE), times=2)
    assert run(monkeypatch, *EXEC, "--approval-timeout", "30m", "--", "true") == 0
    operators.join(timeout=10)


@pytest.mark.parametrize("span", ["30", "m", "-1m", "1.5h", "∞", "٣m"])
def test_a_span_that_is_none_is_64_before_anything_is_opened(
    monkeypatch: pytest.MonkeyPatch, fake: FakeBroker, span: str
) -> None:
    assert run(monkeypatch, *EXEC, "--approval-timeout", span, "--", "true") == 64
    assert not fake.calls


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_wait_ends_the_step(fake: FakeBroker, number: signal.Signals) -> None:
    argv = [
        sys.executable,
        "-c",
        "from stepcred.cli import main; main()",
        *EXEC,
        "--approval-timeout",
        "1h",
        "--",
        "true",
    ]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "waiting for approval" in process.stderr.readline()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (128 + number, "stepcred: no credential was issued\n")
    assert fake.only_step().ended


def test_can_shows_what_is_open(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    assert run(monkeypatch, "can", SCOPE) == 1
    first = "no: orders-db: needs approval [NEEDS_APPROVAL]\n"
    asked = "  approval   by 2; it is asked for when the step asks for the credential\n"
    assert capsys.readouterr().out == first + asked
    assert run(monkeypatch, *EXEC, "--", "true") == 75
    fake.approve(SCOPE)
    capsys.readouterr()
    assert run(monkeypatch, "can", SCOPE) == 1
    assert capsys.readouterr().out == f"{first}  approval   {shown(fake, given=1)}\n"
    assert run(monkeypatch, "can", SCOPE, "--json") == 1
    told = json.loads(capsys.readouterr().out)
    (approval,) = fake.approvals.values()
    assert (told["approval_id"], told["approvals_needed"], told["approvals_given"]) == (approval.id, 2, 1)
    fake.approve(SCOPE)
    assert run(monkeypatch, "can", SCOPE) == 0
