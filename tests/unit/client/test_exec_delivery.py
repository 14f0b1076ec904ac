"""What the child of `exec` is given: chosen variables, private files, templates, and successors in them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from stepcred._outlets import Unusable
from stepcred.cli import _app, _renewal, _wanted
from tests.fakes.broker_server import STEP_ENDED, FakeBroker, Refusal, aws_session, key_value, login, vault_token

PRINT_ENV = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str], fake: FakeBroker) -> None:
    fake.scopes |= {"token": vault_token, "db": login, "lake": aws_session}
    fake.scopes["settings"] = key_value({"api_key": "s3cret-kv", "pem": "s3cret\nlines\n"})


@pytest.fixture
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["stepcred", "exec", *arguments])
    return _app.run()


def environment(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    assert run(monkeypatch, "--no-mask", *arguments, "--", *PRINT_ENV) == 0
    found: dict[str, str] = json.loads(capfd.readouterr().out)
    return found


# --- variables ---


def test_a_chosen_variable_is_the_only_one_of_its_scope(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VAULT_NAMESPACE", "stays")
    child = environment(monkeypatch, capfd, "--env", "KEY=settings:data.api_key", "--env", "USER_OF_DB=db:username")
    assert (child["KEY"], child["USER_OF_DB"]) == ("s3cret-kv", "v-step")
    assert not {"API_KEY", "PGUSER", "PGPASSWORD", "STEPCRED_STEP_HANDLE"} & set(child)
    assert child["VAULT_NAMESPACE"] == "stays"  # nothing of Vault was asked for


def test_scope_and_choice_together_are_both_and_the_choice_wins(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    child = environment(monkeypatch, capfd, "--scope", "db", "--scope", "token", "--env", "VAULT_TOKEN=db:password")
    assert (child["PGUSER"], child["VAULT_ADDR"]) == ("v-step", "https://vault.test:8200")
    assert child["VAULT_TOKEN"] == child["PGPASSWORD"]
    assert child["BAO_TOKEN"].startswith("s3cret-lease-")


def test_a_choice_settles_what_two_scopes_would_both_set(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    fake.scopes["other"] = key_value({"api_key": "s3cret-other"})
    assert run(monkeypatch, "--scope", "settings", "--scope", "other", "--", "true") == 64
    assert "both set API_KEY" in capfd.readouterr().err
    child = environment(
        monkeypatch, capfd, "--scope", "settings", "--scope", "other", "--env", "API_KEY=other:data.api_key"
    )
    assert child["API_KEY"] == "s3cret-other"


def test_a_chosen_usual_variable_takes_its_rivals_away(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("PGSERVICE", "PGPASSFILE", "AWS_PROFILE"):
        monkeypatch.setenv(name, "stale")
    child = environment(monkeypatch, capfd, "--env", "PGPASSWORD=db:password")
    assert not {"PGSERVICE", "PGPASSFILE"} & set(child)
    assert child["AWS_PROFILE"] == "stale"


# --- files ---


def test_a_variable_gets_a_private_file_that_is_gone_afterwards(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = 'stat -c "%a" "$PGPASSFILE" "$(dirname "$PGPASSFILE")"; cat "$PGPASSFILE"; echo "$PGPASSFILE"'
    script += "; echo $PGUSER@$PGHOST ${PGPASSWORD-none}"
    monkeypatch.setenv("PGPASSWORD", "inherited")
    arguments = ["--scope", "db", "--file", "PGPASSFILE=db", "--no-mask", "--", "sh", "-c", script]
    assert run(monkeypatch, *arguments) == 0
    mode, folder, line, path, rest = capfd.readouterr().out.splitlines()
    assert (mode, folder) == ("600", "700")
    assert line == "db.test:5432:orders:v-step:s3cret-lease-1"
    assert rest == "v-step@db.test none"  # libpq would use PGPASSWORD instead of the file
    assert not Path(path).exists()
    assert not Path(path).parent.exists()


def test_a_path_gets_it_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], memory: Path
) -> None:
    (memory / "template").write_text("key=${settings:data.api_key}\ntoken=${token:token}\n")
    into = memory / "new"
    arguments = ["--file", f"{into}/token=token", "--template", f"{memory}/template={into}/app.conf"]
    assert run(monkeypatch, *arguments, "--no-mask", "--", "cat", f"{into}/token", f"{into}/app.conf") == 0
    assert capfd.readouterr().out == "s3cret-lease-1key=s3cret-kv\ntoken=s3cret-lease-1\n"
    assert not into.exists()


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        (["--file", "X=token:password", "--", "true"], 64, "there is address, namespace, token"),
        (["--file", "X=token", "--", "no-such-program-here"], 127, "No such file"),
        (["--file", "X=token", "--", "false"], 1, ""),
        (["--file", "X=token", "--env", "Y=settings:data.nothing", "--", "true"], 64, "there is data.api_key"),
    ],
)
def test_files_are_gone_after_failures_too(  # noqa: PLR0917 - fixtures and cases
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    memory: Path,
    fake: FakeBroker,
    what: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(memory))
    path = memory / "fixed"
    assert run(monkeypatch, "--file", f"{path}=token", *what) == code
    told = capfd.readouterr().err
    assert said in told
    assert "s3cret" not in told
    assert list(memory.iterdir()) == []
    assert fake.only_step().ended


def test_a_file_that_was_there_stays_when_nothing_was_written(
    monkeypatch: pytest.MonkeyPatch, memory: Path, fake: FakeBroker
) -> None:
    (memory / "mine").write_text("mine")
    fake.script("IssueCredential", Refusal(code=grpc.StatusCode.PERMISSION_DENIED, reason="ACCESS_DENIED"))
    assert run(monkeypatch, "--file", f"{memory}/mine=token", "--", "true") == 77
    assert (memory / "mine").read_text() == "mine"


def test_an_unfit_place_is_found_before_anything_is_opened(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fake: FakeBroker, memory: Path
) -> None:
    memory.chmod(0o777)
    assert run(monkeypatch, "--file", f"{memory}/token=token", "--", "true") == 64
    assert "others may write there" in capfd.readouterr().err
    assert run(monkeypatch, "--file", f"{memory}/a/b/token=token", "--", "true") == 74
    assert f"{memory}/a/b: No such file" in capfd.readouterr().err
    assert not fake.calls


def test_files_are_gone_after_a_signal() -> None:
    script = 'echo "$TOKEN_FILE"; exec sleep 60'
    argv = [sys.executable, "-c", "from stepcred.cli import main; main()"]
    argv += ["exec", "--file", "TOKEN_FILE=token", "--", "sh", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        process.terminate()
        assert process.wait(timeout=30) == 128 + 15
    assert not path.exists()


# --- successors ---


def test_a_file_gets_the_successor_and_it_is_masked(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    fake.ttl, fake.heartbeat = timedelta(seconds=2.5), 0.05
    monkeypatch.setattr(_renewal, "_LOOK_EVERY", 0.02)
    script = 'until grep -q lease-3 "$TOKEN_FILE"; do sleep 0.02; done; cat "$TOKEN_FILE"'
    assert run(monkeypatch, "--file", "TOKEN_FILE=token", "--", "sh", "-c", script) == 0
    told = capfd.readouterr()
    assert told.out == "***"
    assert [request.replaces for request in fake.requests("IssueCredential")][:3] == ["", "lease-1", "lease-2"]


def test_what_is_in_a_variable_has_no_successor_and_its_end_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    fake.ttl, fake.heartbeat = timedelta(seconds=0.2), 0.05
    monkeypatch.setattr(_renewal, "_LOOK_EVERY", 0.02)
    assert run(monkeypatch, "--scope", "token", "--file", "TOKEN_FILE=token", "--", "sleep", "0.8") == 0
    said = [line for line in capfd.readouterr().err.splitlines() if "ended at" in line]
    assert len(said) == 1
    assert said[0].startswith("stepcred: token: ended at ")
    assert "a variable cannot be renewed" in said[0]
    assert len(fake.requests("IssueCredential")) == 1


def test_the_end_of_a_file_without_successor_is_said_once_and_nothing_new_is_charged(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    fake.ttl, fake.heartbeat = timedelta(seconds=2), 0.05
    monkeypatch.setattr(_renewal, "_LOOK_EVERY", 0.02)
    exhausted = Refusal(code=grpc.StatusCode.FAILED_PRECONDITION, reason="SUCCESSORS_EXHAUSTED", verdict="NEVER")

    def exhaust() -> None:
        fake.wait_for(lambda: any(step.leases for step in fake.steps.values()))
        fake.script("IssueCredential", *[exhausted] * 9)

    broker = threading.Timer(0.0, exhaust)
    broker.start()
    assert run(monkeypatch, "--file", "TOKEN_FILE=token", "--", "sleep", "2.5") == 0
    broker.join()
    said = [line for line in capfd.readouterr().err.splitlines() if "no successor" in line]
    assert len(said) == 1
    assert said[0].startswith("stepcred: token: ended while the child still runs")
    assert [request.replaces for request in fake.requests("IssueCredential")] == ["", "lease-1"]


def test_a_step_that_the_broker_has_ended_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    fake.heartbeat = 0.05
    monkeypatch.setattr(_renewal, "_LOOK_EVERY", 0.02)
    fake.script("Heartbeat", STEP_ENDED)
    assert run(monkeypatch, "--scope", "token", "--", "sleep", "0.5") == 0
    assert capfd.readouterr().err.count("the broker has ended the step") == 1


# --- the command line ---


@pytest.mark.parametrize(
    ("typed", "offered"), [("--wait", "--wait-broker"), ("--te", "--template"), ("--no", "--no-mask")]
)
def test_options_are_completed(typed: str, offered: str) -> None:
    words = {"_STEPCRED_COMPLETE": "complete_bash", "COMP_WORDS": f"stepcred exec {typed}", "COMP_CWORD": "2"}
    command = str(Path(sys.executable).parent / "stepcred")
    done = subprocess.run([command], env=os.environ | words, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [offered]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a scope"),
        (["--env", "X=token"], "NAME=SCOPE:WHAT"),
        (["--env", "1X=token:token"], "NAME=SCOPE:WHAT"),
        (["--env", "=token:token"], "NAME=SCOPE:WHAT"),
        (["--env", "X=:token"], "NAME=SCOPE:WHAT"),
        (["--file", "X=token:"], "TARGET=SCOPE"),
        (["--file", "x.y=token"], "neither a path"),
        (["--file", "token"], "TARGET=SCOPE"),
        (["--env", "X=token:token", "--file", "X=db"], "asked for twice"),
        (["--file", "/dev/shm/x/y=db", "--file", "/dev/shm/x/./y=db"], "asked for twice"),
        (["--template", "/no/such/file=X"], "cannot read /no/such/file"),
    ],
)
def test_bad_usage_is_said_before_anything_is_opened(arguments: list[str], said: str) -> None:
    options: dict[str, list[str]] = {"--env": [], "--file": [], "--template": []}
    for name, value in zip(arguments[::2], arguments[1::2], strict=True):
        options[name].append(value)
    with pytest.raises(Unusable, match=said):
        _wanted.read([], options["--env"], options["--file"], options["--template"], allow_disk=False)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff${a:b}", "UTF-8"), (b"x\n${a}", "line 2"), (b"plain", r"no \${scope"), (b"$" * (1 << 20) + b"$", "1 MiB")],
)
def test_a_template_that_is_none(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "template").write_bytes(content)
    with pytest.raises(Unusable, match=said):
        _wanted.read([], [], [], [f"{tmp_path}/template=X"], allow_disk=False)


def test_the_scopes_of_everything_are_asked_for_once_in_order(tmp_path: Path) -> None:
    (tmp_path / "template").write_text("${d:data.x} ${a:token} $${no:thing}")
    wanted = _wanted.read(
        ["a", "b", "a"],
        ["X=c:x:token", "Y=a:token"],
        ["/x/y=e:read:token"],
        [f"{tmp_path}/template=Z"],
        allow_disk=True,
    )
    assert wanted.scopes == ["a", "b", "c:x", "e:read", "d"]
    assert wanted.renewable == ["e:read", "d"]
    assert wanted.chosen == ["X", "Y", "Z"]
