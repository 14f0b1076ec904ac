"""How a sidecar starts, and every way in which it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from tests.fakes.broker_server import UNAVAILABLE, FakeBroker
from tests.support.processes import wait_until
from tests.unit.client.sidecar.conftest import Start, until

Captured = pytest.CaptureFixture[str]
STEPCRED = [sys.executable, "-c", "from stepcred.cli import main; main()"]


def popen(*argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv)


async def test_the_exit_of_the_watched_process_ends_the_step(fake: FakeBroker, start: Start) -> None:
    watched = popen("sleep", "60")
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"], watch=watched.pid)
    watched.kill()  # and nobody waits for it: a zombie has exited too
    assert await asyncio.wait_for(sidecar.task, 20) == 0
    assert fake.only_step().ended
    watched.wait()


async def test_a_process_that_is_gone_already_opens_nothing(fake: FakeBroker, start: Start) -> None:
    watched = popen("true")
    watched.wait()
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"], watch=watched.pid, wait=False)
    assert await sidecar.task == 0
    assert fake.requests("BeginStep") == []


async def test_ended_while_it_is_still_starting(fake: FakeBroker, start: Start) -> None:
    fake.delay["IssueCredential"] = 1.0
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"], wait=False)
    await until(lambda: bool(fake.requests("IssueCredential")))
    assert await sidecar.end() == 0
    assert fake.only_step().ended


@pytest.mark.parametrize(("scope", "code", "text"), [("out-of-hours", 77, "would fix"), ("nope", 77, "ACCESS_DENIED")])
async def test_refused_at_the_start_says_why_and_mints_nothing(
    fake: FakeBroker, start: Start, scope: str, code: int, text: str
) -> None:
    sidecar = await start(scopes=["lake-write", scope], aws=["lake-write"], wait=False)
    assert await sidecar.task == code
    assert text in sidecar.events("failed")[0]
    assert fake.requests("IssueCredential") == []
    assert fake.only_step().ended
    assert sidecar.plan.token_file is not None
    assert not sidecar.plan.token_file.exists()


async def test_a_broker_that_is_away_is_69(fake: FakeBroker, start: Start) -> None:
    fake.stop()
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"], wait=False)
    assert await sidecar.task == 69


async def test_an_end_that_the_broker_did_not_hear_is_69_and_says_what_may_live(fake: FakeBroker, start: Start) -> None:
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    fake.script("EndStep", *[UNAVAILABLE] * 4)
    assert await sidecar.end() == 69
    assert "1 credential may live until" in sidecar.events("failed")[0]


async def test_operators_are_waited_for_only_when_wanted(fake: FakeBroker, start: Start) -> None:
    fake.needs["lake-write"] = 1
    alone = await start(scopes=["lake-write"], aws=["lake-write"], wait=False)
    assert await alone.task == 75
    sidecar = await start(
        scopes=["lake-write"], aws=["lake-write"], wanted={"approval_timeout": timedelta(minutes=1)}, wait=False
    )
    await sidecar.has_told("waiting")
    fake.approve("lake-write")
    await sidecar.has_told("ready")
    assert await sidecar.end() == 0


# --- as a process of its own


def sidecar_process(*options: str, folder: Path) -> subprocess.Popen[str]:
    argv = [*STEPCRED, "sidecar", "--allow-disk", "--listen", "127.0.0.1:0", "--token-file", str(folder / "p" / "t")]
    return subprocess.Popen([*argv, *options], stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_proof(
    fake: FakeBroker, environ: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    env = tmp_path / "p" / "env"
    process = sidecar_process("--aws", "lake-write", "--env-file", str(env), "--json", folder=tmp_path)
    wait_until(env.exists, within=30, what="ready")
    process.send_signal(number)
    process.send_signal(number)  # as people do
    _, told = process.communicate(timeout=30)
    lines = [json.loads(line) for line in told.splitlines()]
    assert process.returncode == 0, told
    assert [line["event"] for line in lines] == ["ready", "ending", "ended"]
    assert lines[-1]["message"] == "1 credential dead, proven in 41 ms"
    assert fake.only_step().ended
    assert not env.exists()
    assert "s3cret" not in told


def test_killed_it_says_nothing_and_its_heartbeats_stop(
    fake: FakeBroker, environ: dict[str, str], tmp_path: Path
) -> None:
    fake.heartbeat = 0.1
    env = tmp_path / "p" / "env"
    process = sidecar_process("--aws", "lake-write", "--env-file", str(env), folder=tmp_path)
    wait_until(env.exists, within=30, what="ready")
    assert fake.wait_for(lambda: len(fake.requests("Heartbeat")) > 2)
    process.kill()
    process.communicate()
    beats = len(fake.requests("Heartbeat"))
    time.sleep(0.5)
    assert len(fake.requests("Heartbeat")) == beats
    assert fake.requests("EndStep") == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "nothing to do"),
        (["--aws", "lake"], "--token-file"),
        (["--aws", "lake", "--token-file", "/dev/shm/x/t", "--listen", "0.0.0.0:80"], "loopback"),
        (["--file", "/dev/shm/x/a=lake:"], "PATH=SCOPE:WHAT"),
        (["--vault-token-file", "lake"], "PATH=SCOPE"),
        (["--template", "/nowhere=/dev/shm/x/a"], "cannot read /nowhere"),
        (["--template", "/dev/zero=/dev/shm/x/a"], "/dev/zero is longer than 1 MiB"),
        (["--file", "/dev/shm/x/a=lake:json", "--file-mode", "0644"], "0644"),
        (["--file", "/dev/shm/x/a=lake:json", "--file", "/dev/shm/x/../x/a=lake:env"], "same path"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    options: list[str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stepcred.cli._app import run

    monkeypatch.setenv("TERMINAL_WIDTH", "300")
    monkeypatch.setattr(sys, "argv", ["stepcred", "sidecar", *options])
    assert run() == 64
    assert text in " ".join(capsys.readouterr().err.split())


def test_a_template_that_cannot_be_filled_is_refused_before_a_step_is_opened(
    fake: FakeBroker, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    from stepcred.cli._app import run

    (tmp_path / "app.ini").write_text("a=1\nb=${orders-read}\n")
    monkeypatch.setenv("TERMINAL_WIDTH", "300")
    monkeypatch.setattr(sys, "argv", ["stepcred", "sidecar", "--template", f"{tmp_path}/app.ini=/dev/shm/x/a"])
    assert run() == 64
    assert "app.ini, line 2: ${ is not followed by scope:what}" in " ".join(capsys.readouterr().err.split())
    assert fake.calls == []


def test_each_setting_that_is_missing_has_a_line(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    from stepcred.cli._app import run

    for name in ("ADDR", "CERT"):
        monkeypatch.delenv(f"STEPCRED_{name}")
    monkeypatch.setattr(sys, "argv", ["stepcred", "sidecar", "--file", "/dev/shm/x/t=orders-read:token"])
    assert run() == 78
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("stepcred: STEPCRED_") for line in lines)


def test_how_long_to_wait_for_a_broker_can_come_from_the_settings(
    fake: FakeBroker, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    from stepcred.cli._app import run

    monkeypatch.setenv("STEPCRED_WAIT_BROKER", "2y")
    monkeypatch.setattr(sys, "argv", ["stepcred", "sidecar", "--file", "/dev/shm/x/t=orders-read:token"])
    assert run() == 78
    assert "STEPCRED_WAIT_BROKER must be a time" in capsys.readouterr().err


def test_without_aiohttp_it_says_which_extra_is_missing(
    fake: FakeBroker, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stepcred.cli._app import run

    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.setattr(sys, "argv", ["stepcred", "sidecar", "--aws", "lake-write", "--token-file", "/dev/shm/x/t"])
    assert run() == 69
    assert "pip install 'stepcred[sidecar]'" in capsys.readouterr().err
    assert fake.calls == []


async def test_what_cannot_be_watched_is_a_wrong_argument(fake: FakeBroker, start: Start) -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert thread.native_id is not None
    try:
        sidecar = await start(scopes=["lake-write"], aws=["lake-write"], watch=thread.native_id, wait=False)
        assert await sidecar.task == 64
        assert "cannot watch it" in await sidecar.has_told("failed")
    finally:
        over.set()
        thread.join()
    assert fake.requests("BeginStep") == []
