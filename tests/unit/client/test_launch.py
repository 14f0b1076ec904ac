"""Steps that a launcher opens: in both clients, in `launch` and in `exec`."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

import stepcred
from stepcred.cli import _app
from tests.fakes.broker_server import DENIED, STEP_ENDED, FakeBroker, Refusal

LOAD = "spiffe://test.local/workflow/nightly-etl/step/load"
DIGEST = "sha256:" + "ab" * 32
PRINT_ENV = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
STEPCRED = [sys.executable, "-c", "from stepcred.cli import main; main()"]


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str]) -> None:
    """Every test here has the broker's settings."""


def launch(broker: stepcred.Broker, **changes: str) -> stepcred.Launched:
    return broker.launch(**{"scopes": ["orders-read", "nope"], "on_behalf_of": LOAD, **changes})  # type: ignore[arg-type]


# --- SDK ---


def test_a_launcher_opens_and_the_workload_joins(fake: FakeBroker) -> None:
    with stepcred.connect() as scheduler:
        launched = launch(scheduler, definition_digest=DIGEST)
    (request,) = fake.requests("BeginStep")
    assert (request.on_behalf_of, request.definition_digest) == (LOAD, DIGEST)
    assert (request.name.workflow, request.name.run, request.name.step) == ("nightly-etl", "42", "load")
    assert (launched.attempt, launched.start_within) == (1, timedelta(minutes=15))
    assert launched.deadline is not None
    assert launched.deadline > datetime.now(UTC)
    assert [verdict.granted for verdict in launched.verdicts] == [True, False]
    assert launched.handle not in repr(launched)
    with stepcred.connect() as broker, broker.join(launched.handle) as step:
        assert step.alive
        assert len(fake.requests("Heartbeat")) == 1, "the broker hears that it has started"
        token = step.issue("orders-read")
        assert isinstance(token, stepcred.VaultToken)
        assert fake.wait_for(lambda: fake.only_step().claimed == {token.lease.lease_id})
        assert (step.attempt, step.verdicts, step.deadline is None) == (0, (), False)
        assert launched.handle not in repr(step)
    assert fake.only_step().ended
    assert step.summary() == "1 credential dead, proven in 41 ms"
    assert len(fake.requests("BeginStep")) == 1


async def test_the_same_in_asyncio(fake: FakeBroker) -> None:
    async with stepcred.aio.connect() as broker:
        launched = await broker.launch(scopes=["orders-read"], on_behalf_of=LOAD, max_duration=120)
        async with broker.join(launched.handle) as step:
            await step.issue("orders-read")
        assert step.all_proven
        another = await broker.launch(scopes=["orders-read"], on_behalf_of=LOAD)
        assert await broker.end(another.handle) == ()
    assert fake.requests("BeginStep")[0].max_duration.seconds == 120
    assert all(step.ended for step in fake.steps.values())


def test_a_handle_comes_from_the_environment_too(fake: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    with stepcred.connect() as broker:
        with pytest.raises(stepcred.SettingsError, match="STEPCRED_STEP_HANDLE"):
            broker.join()
        monkeypatch.setenv("STEPCRED_STEP_HANDLE", launch(broker).handle)
        with broker.join() as step:
            assert step.alive


@pytest.mark.parametrize(("refusal", "kind"), [(DENIED, stepcred.AccessDenied), (STEP_ENDED, stepcred.StepEnded)])
def test_a_handle_that_is_not_ours_is_found_out_on_entering(
    fake: FakeBroker, refusal: Refusal, kind: type[stepcred.Refused]
) -> None:
    fake.script("Heartbeat", refusal)
    with stepcred.connect() as broker, pytest.raises(kind), broker.join("h"):
        pytest.fail("was entered")
    assert not fake.requests("EndStep")


def test_a_launcher_ends_what_it_opened(fake: FakeBroker) -> None:
    with stepcred.connect() as broker:
        handle = launch(broker).handle
        with broker.join(handle) as step:
            step.issue("orders-read")
            (outcome,) = broker.end(handle)
            assert outcome.proven


def test_what_a_launcher_opens_is_not_begun_by_oneself(fake: FakeBroker) -> None:
    told = Refusal(code=grpc.StatusCode.FAILED_PRECONDITION, reason="OPENED_BY_LAUNCHER")
    fake.script("BeginStep", told)
    with (
        stepcred.connect() as broker,
        pytest.raises(stepcred.AccessDenied),
        broker.step(scopes=["orders-read"]),
    ):
        pytest.fail("was entered")


def test_nobody_is_launched_for_nobody(fake: FakeBroker) -> None:
    """It would open a step of the launcher's own."""
    with stepcred.connect() as broker, pytest.raises(stepcred.SettingsError, match="on_behalf_of"):
        launch(broker, on_behalf_of="")
    assert not fake.calls


# --- `stepcred launch` ---


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["stepcred", *arguments])
    return _app.run()


def test_launch_prints_the_handle_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    arguments = ["--for", LOAD, "--run", "43", "--definition-digest", DIGEST, "orders-read", "nope", "orders-read"]
    assert run(monkeypatch, "launch", *arguments) == 0
    out, err = capsys.readouterr()
    assert out == fake.only_step().handle + "\n"
    assert "nope: refused [ACCESS_DENIED]" in err
    (request,) = fake.requests("BeginStep")
    assert (request.on_behalf_of, request.definition_digest, request.name.run) == (LOAD, DIGEST, "43")
    assert list(request.scopes) == ["orders-read", "nope"]


def test_launch_for_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    assert run(monkeypatch, "launch", "--for", LOAD, "orders-read", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["handle"], told["attempt"], told["start_within"]) == (fake.only_step().handle, 1, 900.0)
    assert [(verdict["scope"], verdict["access"]) for verdict in told["verdicts"]] == [("orders-read", "GRANTED")]


def test_a_handle_in_a_file_is_its_owners_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker, tmp_path: Path
) -> None:
    file = tmp_path / "handle"
    before = os.umask(0)
    try:
        assert run(monkeypatch, "launch", "--for", LOAD, "orders-read", "--handle-file", str(file)) == 0
    finally:
        os.umask(before)
    assert file.read_text() == fake.only_step().handle + "\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert capsys.readouterr().out == ""
    assert run(monkeypatch, "launch", "--for", LOAD, "orders-read", "--handle-file", str(file)) == 78
    assert "File exists" in capsys.readouterr().err
    assert len(fake.steps) == 1, "opened, and its handle is nowhere"
    other = tmp_path / "other"
    assert run(monkeypatch, "launch", "--for", LOAD, "orders-read", "--handle-file", str(other), "--json") == 0
    assert json.loads(capsys.readouterr().out)["handle"] == ""
    assert other.read_text().strip() in fake.steps


def test_the_definition_itself_stands_for_its_digest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker, tmp_path: Path
) -> None:
    first, second = tmp_path / "dag.py", tmp_path / "load.sql"
    first.write_text("dag")
    second.write_text("select 1")
    for files in ([first], [first, second]):
        assert run(monkeypatch, "digest", *map(str, files), "--base", str(tmp_path)) == 0
        digest = capsys.readouterr().out.strip()
        named = [part for file in files for part in ("--definition", str(file))]
        assert run(monkeypatch, "launch", "--for", LOAD, *named, "--base", str(tmp_path), "orders-read") == 0
        capsys.readouterr()
        assert fake.requests("BeginStep")[-1].definition_digest == digest


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--definition", "/nowhere/dag.py"], 66), (["--definition", "/dev/null", "--definition-digest", DIGEST], 64)],
)
def test_a_definition_that_cannot_be_read_launches_nothing(
    monkeypatch: pytest.MonkeyPatch, fake: FakeBroker, tmp_path: Path, arguments: list[str], code: int
) -> None:
    file = tmp_path / "handle"
    assert run(monkeypatch, "launch", "--for", LOAD, *arguments, "orders-read", "--handle-file", str(file)) == code
    assert not fake.calls
    assert not file.exists()


def test_a_refused_launch_leaves_no_file(monkeypatch: pytest.MonkeyPatch, fake: FakeBroker, tmp_path: Path) -> None:
    fake.script("BeginStep", DENIED)
    assert run(monkeypatch, "launch", "--for", LOAD, "orders-read", "--handle-file", str(tmp_path / "handle")) == 77
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code"), [(["orders-read"], 64), (["--for", LOAD], 64), (["--for", "", "orders-read"], 78)]
)
def test_launch_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int) -> None:
    assert run(monkeypatch, "launch", *arguments) == code


# --- `stepcred exec` in a step that was opened for it ---


def exec_(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*STEPCRED, "exec", "--no-mask", "--scope", "orders-read", *arguments, "--", *PRINT_ENV],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **(env or {})},
    )


@pytest.mark.parametrize("by_file", [True, False])
def test_exec_joins_the_step_and_ends_it(fake: FakeBroker, tmp_path: Path, *, by_file: bool) -> None:
    with stepcred.connect() as broker:
        handle = launch(broker).handle
    file = tmp_path / "handle"
    file.write_text(handle + "\n")
    done = exec_("--handle-file", str(file)) if by_file else exec_(env={"STEPCRED_STEP_HANDLE": handle})
    assert done.returncode == 0, done.stderr
    child = json.loads(done.stdout)
    assert child["VAULT_TOKEN"] == "s3cret-lease-1"
    assert "STEPCRED_STEP_HANDLE" not in child, "a stepcred in the child would end our step"
    assert done.stderr == "stepcred: 1 credential dead, proven in 41 ms\n"
    assert fake.only_step().ended
    assert len(fake.requests("BeginStep")) == 1


def test_a_scope_that_is_refused_after_joining_ends_the_step(fake: FakeBroker) -> None:
    with stepcred.connect() as broker:
        handle = launch(broker).handle
    fake.script("IssueCredential", DENIED)
    done = exec_(env={"STEPCRED_STEP_HANDLE": handle})
    assert (done.returncode, done.stdout) == (77, "")
    assert fake.only_step().ended


@pytest.mark.parametrize(
    ("content", "code"), [("", 78), ("two words", 78), ("x" * 300, 78), ("\xff", 78), (None, 78), ("unknown", 77)]
)
def test_a_handle_file_that_holds_none(fake: FakeBroker, tmp_path: Path, content: str | None, code: int) -> None:
    file = tmp_path / "handle"
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    done = exec_("--handle-file", str(file))
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 1
    assert not fake.requests("IssueCredential")


def test_the_names_of_a_launched_step_are_its_launchers() -> None:
    done = exec_("--run", "43", env={"STEPCRED_STEP_HANDLE": "h"})
    assert done.returncode == 64
    assert "has its names already" in done.stderr
