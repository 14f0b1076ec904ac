"""`make demo` as a visitor runs it: what it says, how it ends, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.examples import LONG
from tests.support.processes import wait_until

ROOT = Path(__file__).parents[2]
LIMIT = 150  # seconds; the demo takes about 20 on two idle cores
SCOPES = ROOT / "tests" / "demo" / "scopes.yaml"
LATE = pytest.mark.skipif(not LONG, reason="plays nearly all of it: STEPCRED_LONG=1")
WIDER = {  # what the demo's expectations are there to find
    "scopes: [prices-read]": "scopes: [prices-read, lake-write]",
    "approvals: 2": "approvals: 0",
    'step/repair", owners: [group:data-platform]': 'step/repair", owners: [group:finance]',
}


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """A marker in TMPDIR by which whatever the demo starts can be found again."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    return {**kept, "TMPDIR": str(tmp_path), **more}


def demo(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tests.demo", *arguments]
    return subprocess.run(
        argv, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=LIMIT, check=False
    )


@contextlib.contextmanager
def piped(tmp_path: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Path, Path]]:
    """The demo without a terminal, and the files with what it says and with its errors."""
    said, errors = (tmp_path.parent / f"{tmp_path.name}.{kind}" for kind in ("said", "errors"))
    argv = [sys.executable, "-m", "tests.demo", *arguments]
    with said.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    try:
        yield process, said, errors
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@contextlib.contextmanager
def started(tmp_path: Path, *arguments: str, **more: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The demo on a terminal of its own, and the file with what it says there."""
    said = tmp_path.parent / f"{tmp_path.name}.said"
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.demo", *arguments],
        cwd=ROOT,
        env=environment(tmp_path, TERM="xterm", COLUMNS="120", **more),
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    copier = subprocess.Popen(["cat"], stdin=master, stdout=said.open("wb"), stderr=subprocess.DEVNULL)
    os.close(master)
    try:
        yield process, said
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        copier.wait(10)


def left_behind(tmp_path: Path) -> list[str]:
    """Processes started by that demo that are still there, and files in its TMPDIR."""
    found = [str(path) for path in tmp_path.iterdir()]
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdecimal() and f"TMPDIR={tmp_path}\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_an_expectation_that_does_not_hold_is_counted_and_told_by_the_exit_status(tmp_path: Path) -> None:
    too_wide = tmp_path.parent / f"{tmp_path.name}.yaml"
    text = SCOPES.read_text()
    for old, new in WIDER.items():
        assert old in text
        text = text.replace(old, new)
    too_wide.write_text(text)
    ran = demo(tmp_path, "--scopes", str(too_wide))
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert re.fullmatch(r"demo: [1-9][0-9]* passed, [1-9][0-9]* failed", ran.stdout.splitlines()[-1])
    assert "✗ lake-write is refused" in ran.stdout
    assert "✗ scopes.yaml: who may have what; its own tests: 3 passed, 2 failed" in ran.stdout
    assert "✗ the step waits for two people" in ran.stdout
    assert "✗ it gets ONE credential" in ran.stdout
    assert "✗ its owner may not let it go" in ran.stdout
    assert left_behind(tmp_path) == []


def test_a_daemon_that_does_not_start_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    broken = tmp_path.parent / f"{tmp_path.name}.yaml"
    broken.write_text(SCOPES.read_text().replace("tier: elevated", "tier: elevatde"))
    ran = demo(tmp_path, "--scopes", str(broken))
    assert ran.returncode == 1
    assert "did you mean" in ran.stdout
    assert ran.stdout.splitlines()[-1].endswith(" failed")
    assert "Traceback" not in ran.stdout + ran.stderr
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("after", ["reads no secret", pytest.param("python payout.py &", marks=LATE)])
def test_ctrl_c_stops_every_server(tmp_path: Path, after: str) -> None:
    with started(tmp_path) as (process, said):
        wait_until(lambda: after in said.read_text(), within=LIMIT, what=f"{after!r} on the screen")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the servers as well
        assert process.wait(30) == 130
        wait_until(lambda: left_behind(tmp_path) == [], within=10, what="nothing left behind")
    assert "\x1b[" in said.read_text()  # colour on a terminal


def printed_commands(said: str) -> list[str]:
    """The right-hand column of what to type."""
    below = said.partition("In another terminal")[2].partition("Ctrl-C here")[0]
    return [line.strip().split("  ", 1)[-1].strip() for line in below.splitlines() if "  " in line.strip()]


def typed(commands: list[str], beginning: str, *, as_ann: bool = False) -> subprocess.CompletedProcess[str]:
    """Type one of the printed commands into a new shell, after those that set it up."""
    (command,) = [each for each in commands if each.startswith(beginning)]
    before = [commands[0], *(each for each in commands if as_ann and each.startswith("export STEPCRED_ADMIN_ADDR="))]
    argv = ["sh", "-c", " && ".join([*before, command])]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_every_expectation_holds_and_keep_leaves_everything_running_with_commands_that_work(tmp_path: Path) -> None:
    with piped(tmp_path, "--keep") as (process, said, errors):
        wait_until(lambda: "Ctrl-C here" in said.read_text(), within=LIMIT, what="the commands on the screen")
        commands = printed_commands(said.read_text())

        who = typed(commands, "stepcred whoami")
        assert "spiffe://demo.local/workflow/nightly-etl/step/extract" in who.stdout, who.stderr
        assert typed(commands, "stepcred can orders-read").stdout.startswith("yes: orders-read")
        assert typed(commands, "stepcred can lake-write").returncode == 1
        assert "nightly-extract" in typed(commands, "stepcred-broker scopes explain spiffe:").stdout
        read = typed(commands, "stepcred exec")
        assert (read.returncode, "password" in read.stdout) == (0, True), read.stderr
        assert "1 credential dead, proven" in read.stderr
        assert "nightly-report" in typed(commands, "stepcred-broker scopes explain --denial").stdout
        assert typed(commands, "stepcred-broker audit verify").returncode == 0
        assert "LOCKED" in typed(commands, "stepcred admin timeline", as_ann=True).stdout
        waits = typed(commands, "stepcred admin approvals list", as_ann=True)
        assert "payments-release" in waits.stdout, waits.stderr
        assert typed(commands, "stepcred admin approvals list").returncode == 78  # only operators may
        assert typed(commands, "python -c").returncode == 0
        yes = typed(commands, "stepcred admin approvals approve", as_ann=True)
        assert "1 of 2 said yes" in yes.stdout or "CODE_REPLAYED" in yes.stderr  # the same half minute
        assert [each for each in commands if each == "stepcred admin top"]
        assert len(typed(commands, "stepcred-broker audit export").stdout.splitlines()) == 3

        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        wait_until(lambda: left_behind(tmp_path) == [], within=10, what="nothing left behind")
    assert errors.read_text() == ""
    text = said.read_text()
    assert text.splitlines()[-1] == "demo: 39 passed, 0 failed"
    assert "\x1b" not in text  # no colour into a pipe
    assert len(text.partition("In another terminal")[0].splitlines()) < 135  # some wrap by the length of names
