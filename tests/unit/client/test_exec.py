"""`stepcred exec` as a process of its own: environment, exit codes, signals, the last line."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from stepcred.cli import _app
from tests.fakes.broker_server import DENIED, UNAVAILABLE, FakeBroker, Refusal, key_value, vault_token

STEPCRED = [sys.executable, "-c", "from stepcred.cli import main; main()"]
PRINT_ENV = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
Run = Callable[..., subprocess.CompletedProcess[str]]
PROVEN = "stepcred: 1 credential dead, proven in 41 ms"


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str]) -> None:
    """Every test here has the broker's settings."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """In this process: a new one costs most of a second."""

    def in_process(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["stepcred", *arguments])
        capfd.readouterr()
        code = _app.run()
        told = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, told.out, told.err)

    return in_process


def apart(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which has no files but its three, and whose gRPC is as quiet as the command makes it."""
    return subprocess.run([*STEPCRED, *arguments], capture_output=True, text=True, check=False, timeout=60)


def start(command: Sequence[str], ready: Path) -> subprocess.Popen[str]:
    """An exec whose child has said, by making the file, that it is there."""
    exec_ = [*STEPCRED, "exec", "--scope", "orders-read", "--", *command]
    process = subprocess.Popen(exec_, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ready.exists(), process.communicate(timeout=10)
    return process


def child(ready: Path, body: str) -> list[str]:
    return [sys.executable, "-c", f"import os, pathlib, signal, sys, time\n{body.replace('READY', f'{str(ready)!r}')}"]


def test_the_child_gets_the_credential_and_the_last_line_says_it_is_dead(run: Run, fake: FakeBroker) -> None:
    result = run("exec", "--no-mask", "--scope", "orders-read", "--", *PRINT_ENV)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["VAULT_TOKEN"] == "s3cret-lease-1"
    assert result.stderr.splitlines() == [PROVEN]
    assert fake.only_step().ended


def test_conflicting_variables_are_unset_and_others_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_SECURITY_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE", "VAULT_NAMESPACE", "PGSERVICE"):
        monkeypatch.setenv(name, "stale")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    result = run("exec", "--scope", "lake-write", "--scope", "orders-read", "--", *PRINT_ENV)
    env = json.loads(result.stdout)
    assert env["AWS_ACCESS_KEY_ID"] == "ASIATEST"
    assert env["VAULT_ADDR"] == "https://vault.test:8200"
    assert env["AWS_MAX_ATTEMPTS"] == "2"
    assert env["PGSERVICE"] == "stale"  # no database credential was asked for
    assert env["STEPCRED_RUN"] == "42"
    assert not {"AWS_PROFILE", "AWS_SECURITY_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE", "VAULT_NAMESPACE"} & set(env)
    assert result.stderr.splitlines() == ["stepcred: 2 credentials dead, proven in 41 ms"]


def test_names_on_the_command_line_win(run: Run, fake: FakeBroker) -> None:
    names = ("--workflow", "w", "--run", "r", "--step", "s")
    assert run("exec", "--scope", "orders-read", *names, "--", "true").returncode == 0
    name = fake.only_step().name
    assert (name.workflow, name.run, name.step) == ("w", "r", "s")


@pytest.mark.parametrize("code", [1, 2, 64, 255])
def test_the_childs_exit_code_is_ours(run: Run, code: int) -> None:
    result = run("exec", "--scope", "orders-read", "--", "sh", "-c", f"exit {code}")
    assert (result.returncode, result.stderr.splitlines()) == (code, [PROVEN])


def test_a_child_ended_by_a_signal_is_128_plus_it(run: Run) -> None:
    result = run("exec", "--scope", "orders-read", "--", "sh", "-c", "kill -KILL $$")
    assert (result.returncode, result.stderr.splitlines()) == (128 + 9, [PROVEN])


def test_there_is_no_shell(run: Run, tmp_path: Path) -> None:
    result = run("exec", "--scope", "orders-read", "--", "echo", "$HOME;", "touch", str(tmp_path / "made"), "--scope")
    assert result.stdout == f"$HOME; touch {tmp_path / 'made'} --scope\n"
    assert not (tmp_path / "made").exists()


def test_a_missing_and_an_unexecutable_program(run: Run, tmp_path: Path, fake: FakeBroker) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    missing = run("exec", "--scope", "orders-read", "--", "no-such-program-here")
    assert missing.returncode == 127
    assert "No such file" in missing.stderr
    assert run("exec", "--scope", "orders-read", "--", str(plain)).returncode == 126
    assert run("exec", "--scope", "orders-read", "--", str(tmp_path)).returncode == 126
    assert all(step.ended for step in fake.steps.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_child_and_its_answer_is_ours(tmp_path: Path, number: signal.Signals) -> None:
    ready = tmp_path / "ready"
    body = f"signal.signal({int(number)}, lambda *_: sys.exit(42))\npathlib.Path(READY).touch()\ntime.sleep(60)\n"
    process = start(child(ready, body), ready)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 42
    assert stderr.splitlines() == [PROVEN]


def test_a_child_without_a_handler_dies_of_the_signal_and_so_do_we(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = start(child(ready, "pathlib.Path(READY).touch()\ntime.sleep(60)\n"), ready)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr.splitlines()) == (128 + signal.SIGTERM, [PROVEN])


def test_a_signal_before_the_child_ends_the_step(fake: FakeBroker) -> None:
    fake.delay["IssueCredential"] = 2.0
    process = subprocess.Popen(
        [*STEPCRED, "exec", "--scope", "orders-read", "--", "true"], stderr=subprocess.PIPE, text=True
    )
    assert fake.wait_for(lambda: bool(fake.requests("IssueCredential")), timeout=30)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert fake.only_step().ended
    assert "Traceback" not in stderr


def test_a_signal_does_not_keep_a_step_without_a_child_from_its_end(fake: FakeBroker) -> None:
    fake.scopes["other-token"] = vault_token
    fake.delay["EndStep"] = 1.0
    process = subprocess.Popen(
        [*STEPCRED, "exec", "--scope", "orders-read", "--scope", "other-token", "--", "true"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert fake.wait_for(lambda: bool(fake.requests("EndStep")), timeout=30)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 64
    assert stderr.splitlines()[-1] == "stepcred: 2 credentials dead, proven in 41 ms"


def test_a_second_signal_does_not_keep_the_credentials_alive(fake: FakeBroker) -> None:
    fake.delay["EndStep"] = 1.0
    process = subprocess.Popen(
        [*STEPCRED, "exec", "--scope", "orders-read", "--", "true"], stderr=subprocess.PIPE, text=True
    )
    assert fake.wait_for(lambda: bool(fake.requests("EndStep")), timeout=30)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr.splitlines()) == (0, [PROVEN])


def test_the_child_inherits_no_file_of_ours() -> None:
    listing = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"
    alone = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    result = apart("exec", "--scope", "orders-read", "--", sys.executable, "-c", listing)
    assert result.stdout == alone.stdout


def test_no_core_file_holds_our_secrets_and_the_child_may_have_one() -> None:
    dumpable = "import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"  # PR_GET_DUMPABLE
    source = f"""if True:
        from stepcred.cli import _exec, main
        run = _exec.run
        def watched(job):
            code = run(job)
            {dumpable}
            return code
        _exec.run = watched
        main()"""
    arguments = ["exec", "--scope", "orders-read", "--", sys.executable, "-c", dumpable]
    done = subprocess.run([sys.executable, "-c", source, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1", "0"]


def test_sigpipe_ends_the_child_as_it_would_without_us(run: Run) -> None:
    script = "kill -PIPE $$; echo survived"
    assert run("exec", "--scope", "orders-read", "--", "sh", "-c", script).returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (DENIED, 77),
        (
            Refusal(code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="COOLING", verdict="RETRY_AFTER", retry_after=12),
            75,
        ),
        (Refusal(code=grpc.StatusCode.FAILED_PRECONDITION, reason="LOCKED"), 77),
        (Refusal(code=grpc.StatusCode.ABORTED, reason="PROVIDER_FAILED", verdict="RETRY_AFTER", retry_after=1), 75),
        (Refusal(code=grpc.StatusCode.INVALID_ARGUMENT, reason="INVALID_NAME"), 64),
        (Refusal(code=grpc.StatusCode.UNAVAILABLE, reason="DRAINING", pushback="-1"), 69),
        (Refusal(code=grpc.StatusCode.INTERNAL, reason="INTERNAL"), 70),
    ],
    ids=lambda value: value.reason if isinstance(value, Refusal) else str(value),
)
def test_a_refusal_has_its_exit_code_reason_and_reference(
    run: Run, fake: FakeBroker, refusal: Refusal, code: int
) -> None:
    fake.script("IssueCredential", refusal, refusal)  # what the provider failed at is asked again, once
    result = run("exec", "--scope", "orders-read", "--", "echo", "ran")
    assert (result.returncode, result.stdout) == (code, "")
    assert refusal.message in result.stderr
    assert code == 69 or (refusal.reason in result.stderr and refusal.reference_id in result.stderr)
    assert fake.only_step().ended


def test_a_scope_refused_at_the_start_mints_nothing_for_the_others(run: Run, fake: FakeBroker) -> None:
    result = run("exec", "--scope", "orders-read", "--scope", "out-of-hours", "--", "echo", "ran")
    assert (result.returncode, result.stdout) == (77, "")
    for told in ("SCOPE_REFUSED", "nightly-load", "scopes.yaml:31", "07:00", "ref-8"):
        assert told in result.stderr
    assert not fake.requests("IssueCredential")
    assert fake.only_step().ended


def test_an_unreachable_broker_is_69(run: Run, fake: FakeBroker) -> None:
    fake.stop()
    result = run("exec", "--scope", "orders-read", "--", "echo", "ran")
    assert (result.returncode, result.stdout) == (69, "")
    assert "cannot be reached" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_certificate_problem_is_one_clear_line(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPCRED_CA", environ["STEPCRED_CERT"])
    result = apart("exec", "--scope", "orders-read", "--", "true")
    assert result.returncode == 77
    (line,) = result.stderr.splitlines()
    assert "does not trust the broker's certificate" in line


def test_bad_usage_is_64_and_missing_settings_78(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("exec", "--scope", "orders-read").returncode == 64
    assert run("exec", "--", "true").returncode == 64
    assert run("nonsense").returncode == 64
    monkeypatch.delenv("STEPCRED_ADDR")
    monkeypatch.delenv("STEPCRED_CA")
    result = run("exec", "--scope", "orders-read", "--", "true")
    assert result.returncode == 78
    assert "STEPCRED_ADDR" in result.stderr
    assert "STEPCRED_CA" in result.stderr


def test_two_scopes_for_one_variable_are_refused_before_the_child(run: Run, fake: FakeBroker) -> None:
    fake.scopes["other-token"] = vault_token
    result = run("exec", "--scope", "orders-read", "--scope", "other-token", "--", "echo", "ran")
    assert (result.returncode, result.stdout) == (64, "")
    assert "both set VAULT_TOKEN" in result.stderr
    assert fake.only_step().ended


@pytest.mark.parametrize("arguments", [["--scope", "\udcff"], ["--scope", "orders-read", "--run", "\udcff"]])
def test_a_name_that_is_not_utf_8_is_a_usage_error(run: Run, arguments: list[str]) -> None:
    result = run("exec", *arguments, "--", "echo", "ran")
    assert (result.returncode, result.stdout) == (64, "")
    assert "a name of a scope, workflow, run or step is not UTF-8" in result.stderr


def test_keys_that_cannot_be_variables_are_named(run: Run, fake: FakeBroker) -> None:
    fake.scopes["settings"] = key_value({"api_key": "s3cret-1", "LD_PRELOAD": "s3cret-2", "a-b": "s3cret-3"})
    result = run("exec", "--no-mask", "--scope", "settings", "--", *PRINT_ENV)
    env = json.loads(result.stdout)
    assert env["API_KEY"] == "s3cret-1"
    assert "LD_PRELOAD" not in env
    assert "LD_PRELOAD, a-b" in result.stderr
    assert "s3cret" not in result.stderr


def test_a_key_does_not_write_to_the_terminal(run: Run, fake: FakeBroker) -> None:
    fake.scopes["settings"] = key_value({"api_key": "x", "red\x1b[31m": "y"})
    result = run("exec", "--scope", "settings", "--", "true")
    assert r"red\x1b[31m" in result.stderr
    assert "\x1b" not in result.stderr


def test_a_value_that_no_environment_can_hold_is_refused(run: Run, fake: FakeBroker) -> None:
    fake.scopes["settings"] = key_value({"api_key": "s3cret\0"})
    result = run("exec", "--scope", "settings", "--", "echo", "ran")
    assert (result.returncode, result.stdout) == (64, "")
    assert "Traceback" not in result.stderr
    assert "s3cret" not in result.stderr
    assert fake.only_step().ended


def test_a_program_without_a_name_is_refused_before_anything_is_opened(run: Run, fake: FakeBroker) -> None:
    result = run("exec", "--scope", "orders-read", "--", "")
    assert result.returncode == 64
    assert "no name" in result.stderr
    assert not fake.steps


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_lost_stderr_changes_neither_exit_code_nor_stdout(fake: FakeBroker, redirection: str) -> None:
    exec_ = shlex.join([*STEPCRED, "exec", "--scope", "orders-read", "--", "sh", "-c", "echo ran; exit 5"])
    result = subprocess.run(["sh", "-c", f"{exec_} {redirection}"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (5, "ran\n")
    assert fake.only_step().ended


def test_a_failing_end_keeps_the_childs_code_and_is_said(run: Run, fake: FakeBroker) -> None:
    fake.script("EndStep", DENIED)
    result = run("exec", "--scope", "orders-read", "--", "sh", "-c", "exit 5")
    assert result.returncode == 5
    assert "ACCESS_DENIED" in result.stderr


@pytest.mark.parametrize(
    "refusal",
    [Refusal(code=grpc.StatusCode.ABORTED, reason="STORE_UNAVAILABLE"), Refusal(code=grpc.StatusCode.UNKNOWN)],
)
def test_what_an_end_that_failed_leaves_alive_is_said_with_its_bound(
    run: Run, fake: FakeBroker, refusal: Refusal
) -> None:
    fake.script("EndStep", refusal)
    result = run("exec", "--scope", "orders-read", "--scope", "orders-db", "--", "sh", "-c", "exit 5")
    assert result.returncode == 5
    last = result.stderr.splitlines()[-1]
    assert re.fullmatch(r"stepcred: 2 credentials may live until [0-9: -]+Z; the broker ends them when it can", last)


def test_a_broker_that_cannot_be_reached_at_the_end_leaves_a_bound_too(run: Run, fake: FakeBroker) -> None:
    fake.script("EndStep", *[UNAVAILABLE] * 9)
    result = run("exec", "--scope", "orders-read", "--", "true")
    assert re.search(r"\nstepcred: 1 credential may live until \S+Z; the broker ends it when it can\n$", result.stderr)


def test_what_stays_exposed_is_said(run: Run, fake: FakeBroker) -> None:
    fake.exposed_for = timedelta(minutes=5)
    result = run("exec", "--scope", "lake-write", "--", "true")
    assert result.stderr.startswith("stepcred: 1 exposed until ")


def test_without_the_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('No module named typer', name='typer')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run([*STEPCRED, "whoami"], env=env, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 69
    assert result.stderr == "stepcred: the command needs an extra: pip install 'stepcred[cli]'\n"


def test_ctrl_c_while_the_command_is_loaded_shows_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise KeyboardInterrupt")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run([*STEPCRED, "whoami"], env=env, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stderr) == (130, "")


def test_a_warning_of_the_sdk_is_told_as_everything_else(fake: FakeBroker, environ: dict[str, str]) -> None:
    key = Path(environ["STEPCRED_KEY"])
    key.chmod(0o644)
    try:
        result = apart("exec", "--json", "--scope", "orders-read", "--", "true")
        in_words = apart("exec", "--scope", "orders-read", "--", "true")
    finally:
        key.chmod(0o600)
    told = [json.loads(line) for line in result.stderr.splitlines()]
    assert told[0]["event"] == "warning"
    assert "can be read by everybody" in told[0]["message"]
    assert in_words.stderr.startswith("stepcred: the private key ")
