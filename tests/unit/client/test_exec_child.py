"""The child of `exec`: pipes and terminals, process groups, and what a stubborn or vanished one is given."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.broker_server import FakeBroker, key_value

STEPCRED = [sys.executable, "-c", "from stepcred.cli import main; main()"]
PROVEN = "stepcred: 1 credential dead, proven in 41 ms"
SECRET = "s3cret-lease-1"


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str]) -> None:
    """Every test here has the broker's settings."""


def exec_(*command: str, options: tuple[str, ...] = ()) -> list[str]:
    return [*STEPCRED, "exec", "--scope", "orders-read", *options, "--", *command]


def python(body: str) -> list[str]:
    return [sys.executable, "-u", "-c", f"import os, signal, subprocess, sys, time\n{body}"]


def start(argv: list[str], *, start_new_session: bool = False) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, start_new_session=start_new_session)


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- pipes ---


def test_secrets_are_masked_in_both_outputs_and_stay_in_their_order() -> None:
    script = 'echo "out $VAULT_TOKEN"; echo "err $VAULT_TOKEN" >&2; echo last'
    apart = subprocess.run(exec_("sh", "-c", script), capture_output=True, text=True, check=False)
    assert apart.stdout == "out ***\nlast\n"
    assert apart.stderr == f"err ***\n{PROVEN}\n"
    together = subprocess.run(
        exec_("sh", "-c", script), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert together.stdout == f"out ***\nerr ***\nlast\n{PROVEN}\n"


def test_output_is_as_large_as_it_is() -> None:
    done = subprocess.run(exec_("head", "-c", "3000000", "/dev/zero"), capture_output=True, check=False)
    assert done.stdout == bytes(3_000_000)


def test_a_prompt_is_shown_although_it_may_be_the_beginning_of_a_secret() -> None:
    with subprocess.Popen(
        exec_(*python("sys.stdout.write('name? s'); sys.stdin.read()")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read(7) == b"name? s"
        process.stdin.close()


def test_a_reader_that_goes_away_ends_the_child_as_without_us(fake: FakeBroker) -> None:
    process = start(exec_("yes"))
    assert process.stdout is not None
    assert process.stdout.readline() == "y\n"
    process.stdout.close()
    assert process.wait(timeout=30) == 128 + signal.SIGPIPE
    assert fake.only_step().ended


def test_a_slow_reader_keeps_no_credential_alive(fake: FakeBroker) -> None:
    process = start(exec_("head", "-c", "100000", "/dev/zero"))
    assert fake.wait_for(lambda: any(step.ended for step in fake.steps.values()), timeout=30)
    assert process.poll() is None
    stdout, stderr = process.communicate(timeout=30)
    assert (len(stdout), stderr) == (100_000, f"{PROVEN}\n")


def test_a_reader_that_takes_nothing_does_not_keep_a_signal_from_the_child(fake: FakeBroker) -> None:
    process = start(exec_("yes"))
    assert fake.wait_for(lambda: bool(fake.steps and fake.only_step().claimed), timeout=30)
    assert process.stdout is not None
    select.select([process.stdout], [], [], 20)
    process.send_signal(signal.SIGTERM)
    assert fake.wait_for(lambda: fake.only_step().ended, timeout=30)
    process.send_signal(signal.SIGTERM)  # what is left is given up
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    process.stdout.close()


def test_what_we_say_ourselves_waits_for_no_reader_while_a_credential_is_alive(fake: FakeBroker) -> None:
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN); os.write(2, b'x' * 1_000_000)"
    process = start(exec_(*python(body), options=("--kill-after", "1s")))
    assert process.stderr is not None
    select.select([process.stderr], [], [], 20)
    time.sleep(0.2)  # until it is full
    process.send_signal(signal.SIGTERM)
    assert fake.wait_for(lambda: fake.only_step().ended, timeout=10)
    process.send_signal(signal.SIGTERM)  # what is left is given up
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL
    assert stderr.endswith(f"{PROVEN}\n")


def test_a_new_size_of_the_window_loses_no_output(fake: FakeBroker) -> None:
    process = start(exec_("head", "-c", "100000", "/dev/zero"))
    assert fake.wait_for(lambda: any(step.ended for step in fake.steps.values()), timeout=30)
    process.send_signal(signal.SIGWINCH)
    time.sleep(0.2)  # it must not have ended now
    stdout, _ = process.communicate(timeout=30)
    assert len(stdout) == 100_000


def test_what_cannot_be_written_is_said() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(exec_("echo", "x"), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert "the child's output cannot be written: No space left on device" in done.stderr
    assert PROVEN in done.stderr


# --- signals and process groups; a session of its own has no terminal ---


def test_a_signal_reaches_what_the_child_has_started() -> None:
    body = "p = subprocess.Popen(['sleep', '60']); print(p.pid); sys.exit(40 - p.wait())"
    with start(
        exec_(*python(f"signal.signal(signal.SIGTERM, lambda *_: 0)\n{body}")), start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 40 + signal.SIGTERM


@pytest.mark.parametrize("new_session", [True, False])
def test_one_that_ignores_sigterm_is_killed_in_time(fake: FakeBroker, *, new_session: bool) -> None:
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN); print(1)\n"
    argv = exec_(*python(f"{body}time.sleep(60)"), options=("--kill-after", "1s"))
    with start(argv, start_new_session=new_session) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL
    assert stderr.splitlines() == ["stepcred: the child is still there 1 s after SIGTERM: killed", PROVEN]
    assert fake.only_step().ended


def test_sigint_alone_kills_nobody() -> None:
    body = "signal.signal(signal.SIGINT, lambda *_: 0); print(1); sys.stdin.read(); sys.exit(7)"
    argv = exec_(*python(body), options=("--kill-after", "1s"))
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1.5)
        process.stdin.close()
        assert process.wait(timeout=30) == 7


def test_one_that_leaves_a_daemon_behind_is_not_waited_for(tmp_path: Path, fake: FakeBroker) -> None:
    """It holds our pipe, has left the process group, and ignores SIGHUP."""
    body = (
        "if os.fork(): print('parent'); os._exit(3)\n"
        "os.setsid(); signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        f"if os.fork(): os._exit(0)\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    process = start(exec_(*python(body)))
    stdout, stderr = process.communicate(timeout=30)
    wait_for(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()))
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert (process.returncode, stdout, stderr) == (3, "parent\n", f"{PROVEN}\n")
    assert fake.only_step().ended


# --- terminals ---


class Terminal:
    """A process of ours at a new terminal, as its session's leader."""

    def __init__(self, argv: list[str], *, stdout: int | None = None) -> None:
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 97, 0, 0))
        self.before = termios.tcgetattr(slave)
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.ttyname(slave), os.O_RDWR, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, 0, 1) if stdout is None else (os.POSIX_SPAWN_DUP2, stdout, 1)]
        actions += [(os.POSIX_SPAWN_DUP2, 0, 2)]
        self.pid = os.posix_spawn(argv[0], argv, dict(os.environ), file_actions=actions, setsid=True)
        self.slave = slave
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, text: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert select.select([self.master], [], [], max(deadline - time.monotonic(), 0))[0], self.shown
            self.shown += os.read(self.master, 65536).decode()

    def wait(self) -> int:
        """Reading meanwhile: what is written last must not wait for us."""
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            while select.select([self.master], [], [], 0.02)[0]:
                self.shown += os.read(self.master, 65536).decode()
            if pid:
                return os.waitstatus_to_exitcode(status)


@contextlib.contextmanager
def terminal(*argv: str, stdout: int | None = None) -> Iterator[Terminal]:
    made = Terminal(list(argv), stdout=stdout)
    try:
        yield made
        assert termios.tcgetattr(made.slave) == made.before
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if os.waitpid(made.pid, os.WNOHANG)[0] == 0:
                os.kill(made.pid, signal.SIGKILL)
                os.waitpid(made.pid, 0)
        os.close(made.master)
        os.close(made.slave)


def test_at_a_terminal_the_child_has_one_and_its_output_is_masked() -> None:
    body = (
        "print(sys.stdin.isatty(), sys.stdout.isatty(), sys.stderr.isatty(), os.get_terminal_size(), end=' ')\n"
        "print(os.tcgetpgrp(0) == os.getpgrp(), os.environ['VAULT_TOKEN'])\n"
        "print('got', input('name? '))"
    )
    with terminal(*exec_(*python(body))) as at:
        at.until("name? ")
        at.type("blue\r")
        assert at.wait() == 0
    assert "True True True os.terminal_size(columns=97, lines=31) True ***\r\n" in at.shown
    assert "name? blue\r\ngot blue\r\n" in at.shown
    assert at.shown.endswith(f"{PROVEN}\r\n")
    assert SECRET not in at.shown


def test_ctrl_c_and_a_new_size_reach_a_child_at_a_terminal(fake: FakeBroker) -> None:
    body = (
        "seen = []\n"
        "signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "signal.signal(signal.SIGWINCH, lambda *_: print(os.get_terminal_size().columns, 'columns'))\n"
        "print('ready')\n"
        "while not seen: time.sleep(0.02)\n"
        "time.sleep(0.3); sys.exit(40 + len(seen))\n"
    )
    with terminal(*exec_(*python(body))) as at:
        at.until("ready")
        fcntl.ioctl(at.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 55, 0, 0))
        os.kill(at.pid, signal.SIGWINCH)  # the kernel's own goes to the foreground group: it is us
        at.until("55 columns")
        at.type("\x03")
        assert at.wait() == 41
    assert fake.only_step().ended


@pytest.mark.parametrize("options", [(), ("--no-mask",)])
def test_sigterm_at_a_terminal_ends_the_child_and_leaves_the_terminal_as_it_was(options: tuple[str, ...]) -> None:
    with terminal(*exec_(*python("print('ready'); time.sleep(60)"), options=options)) as at:
        at.until("ready")
        os.kill(at.pid, signal.SIGTERM)
        assert at.wait() == 128 + signal.SIGTERM
    assert at.shown.endswith(f"{PROVEN}\r\n")


def test_a_child_that_turns_its_output_elsewhere_is_not_hung_up() -> None:
    """Nobody has its terminal open then, for a while or for good."""
    body = "again, null = os.ttyname(1), os.open('/dev/null', os.O_RDWR)\n"
    body += "for number in range(3): os.dup2(null, number)\n"
    body += "time.sleep(0.3); os.write(os.open(again, os.O_RDWR), b'back'); sys.exit(43)"
    with terminal(*exec_(*python(body))) as at:
        assert at.wait() == 43
    assert at.shown == f"back{PROVEN}\r\n"


def test_a_program_that_is_not_there_leaves_the_terminal_as_it_was() -> None:
    with terminal(*exec_("no-such-program-here")) as at:
        assert at.wait() == 127


def test_with_stdout_elsewhere_the_child_reads_the_terminal() -> None:
    """As in `stepcred exec … | less`: the keys are the terminal's, nobody is put into the background."""
    reader, writer = os.pipe()
    body = "print(sys.stdout.isatty(), sys.stdin.isatty(), os.tcgetpgrp(0) == os.getpgrp(), input())"
    with terminal(*exec_(*python(body)), stdout=writer) as at:
        os.close(writer)
        at.type("blue\n")
        assert at.wait() == 0
        with os.fdopen(reader) as shown:
            assert shown.read() == "False True True blue\n"


def test_ctrl_c_with_stdout_elsewhere_comes_once() -> None:
    reader, writer = os.pipe()
    body = (
        "seen = []\n"
        "signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "print('ready', file=sys.stderr)\n"
        "while not seen: time.sleep(0.02)\n"
        "time.sleep(0.3); sys.exit(40 + len(seen))\n"
    )
    with terminal(*exec_(*python(body)), stdout=writer) as at:
        os.close(writer)
        at.until("ready")
        at.type("\x03")
        assert at.wait() == 41
    os.close(reader)


def test_a_terminal_that_is_closed_ends_the_child_and_the_credential(fake: FakeBroker) -> None:
    at = Terminal(exec_(*python("print('ready'); time.sleep(60)")))
    at.until("ready")
    os.close(at.master)
    os.close(at.slave)
    assert os.waitstatus_to_exitcode(os.waitpid(at.pid, 0)[1]) == 128 + signal.SIGHUP
    assert fake.only_step().ended


# --- JSON ---


def test_json_is_one_object_per_line_and_the_last_has_everything(fake: FakeBroker) -> None:
    fake.scopes["settings"] = key_value({"port": "5432", "api_key": "s3cret-1"})
    argv = [*STEPCRED, "exec", "--scope", "orders-read", "--scope", "settings", "--json", "--", "sh", "-c", "exit 5"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events] == ["issued", "not-masked", "issued", "ended"]
    assert (done.returncode, events[-1]["exit_code"]) == (5, 5)
    assert [(lease["scope"], lease["state"], lease["evidence"]) for lease in events[-1]["leases"]] == [
        ("orders-read", "REVOKED", "SEEN_DEAD"),
        ("settings", "REVOKED", "SEEN_DEAD"),
    ]
    assert events[-1]["message"] == "2 credentials dead, proven in 41 ms"
    assert "s3cret" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "events"),
    [
        (["--scope", "orders-read", "--", "no-such-program-here"], 127, ["issued", "error", "ended"]),
        (["--scope", "out-of-hours", "--", "true"], 77, ["refused", "ended"]),
        (["--scope", "orders-read", "--kill-after", "soon", "--", "true"], 64, ["ended"]),
        (["--", "true"], 64, ["ended"]),
        (["--nonsense", "--scope", "orders-read", "--", "true"], 64, ["ended"]),
    ],
)
def test_json_also_of_what_went_wrong(arguments: list[str], code: int, events: list[str]) -> None:
    done = subprocess.run([*STEPCRED, "exec", "--json", *arguments], capture_output=True, text=True, check=False)
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in told] == events
    assert (done.returncode, told[-1]["exit_code"]) == (code, code)


def test_the_childs_own_json_is_its_own() -> None:
    done = subprocess.run(exec_("echo", "--json"), capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("--json\n", f"{PROVEN}\n")
