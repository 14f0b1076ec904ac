"""`stepcred admin top` in a real pseudo-terminal, against a service behind real mutual TLS."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fakes.operator_server import FakeOperatorService
from tests.support import top_picture
from tests.support.acme import evening
from tests.support.certs import TestCA
from tests.support.terminal import Terminal

COMMAND = str(Path(sys.executable).parent / "stepcred")
TOP = [COMMAND, "admin", "top", "--interval", "0.5"]
_COLOURS = re.compile(rb"\x1b\[[0-9;]*m")
_CRASH = """
import sys
from stepcred.cli import _exits, main
from stepcred.cli._top import head

def broken(known, *, paused):
    password = "s3cret-" + "in-a-local-variable"
    raise RuntimeError("drawn no more")

first = head.title
def title(known, *, paused):
    head.title = broken
    return first(known, paused=paused)
head.title = title
sys.argv = ["stepcred", "admin", "top", "--interval", "0.5"]
main()
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestCA:
    return TestCA(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def service(authority: TestCA) -> Iterator[FakeOperatorService]:
    acme = evening(datetime.now(UTC))
    with FakeOperatorService(tls=(*authority.server(), authority.operator_root_path), **acme.lists()) as running:
        yield running


@pytest.fixture
def env(service: FakeOperatorService, authority: TestCA, tmp_path: Path) -> dict[str, str]:
    operator = authority.operator("spiffe://test.local/operator/ann")
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "STEPCRED_ADMIN_ADDR": service.addr,
        "STEPCRED_ADMIN_CERT": str(operator.cert),
        "STEPCRED_ADMIN_KEY": str(operator.key),
        "STEPCRED_ADMIN_CA": str(operator.ca),
    }


def test_a_session(service: FakeOperatorService, env: dict[str, str]) -> None:
    with Terminal(TOP, env) as terminal:
        terminal.wait_for("[1 Steps 6]", "epoch 12", "nightly-etl", "0/5 LOCKED", "1/3 lake-write", "FROZEN 1")
        assert terminal.alternate

        terminal.press("\t")
        terminal.wait_for("[2 Leases 8]", "OVERDUE", "IN_DOUBT", gone=["LEFT"])
        terminal.press("4")
        terminal.wait_for("[4 Guard 2]", "HELD", "workflow=backfill")
        terminal.press("6")
        terminal.wait_for("[6 Broker 6]", "HELD OFF", "runs away since 21:50")
        terminal.press("3")
        terminal.wait_for("[3 Revocations 3]", "deny is written")

        service.leases = [one for one in service.leases if one.lease.lease_id != "m7rw2xh5kd3qvz6t"]
        terminal.wait_for("[3 Revocations 2]", gone=["deny is written"])

        terminal.press("/overdue\r")  # in one piece, as over a slow line
        terminal.wait_for('1 of 2 with "overdue"', gone=["IN_DOUBT"])
        terminal.press("\r")
        terminal.wait_for(
            "k4nd7tz2yq5wc3mh", "stepcred admin leases revoke k4nd7tz2yq5wc3mh", "503 Service Unavailable: standby"
        )
        terminal.press("1")
        terminal.wait_for("command line 1 is with your terminal")
        terminal.press("\x1b")
        terminal.wait_for("[3 Revocations 2]")
        terminal.press("\x1b")
        terminal.wait_for("IN_DOUBT", gone=["with"])

        service.stop()
        terminal.wait_for("no answer since", "cannot be reached", "[3 Revocations 2]")
        service.health.epoch = 13
        service.start()
        terminal.wait_for("epoch 13", gone=["no answer"])

        terminal.press("1/fetch\r4sq")  # typed ahead
        assert terminal.ended() == 0
        assert not terminal.alternate
        assert terminal.modes == terminal.modes_before
        assert not terminal.screen.cursor.hidden
        assert b"\x1b]52;" in terminal.output  # what was copied


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(env: dict[str, str], number: signal.Signals) -> None:
    with Terminal(TOP, env) as terminal:
        terminal.wait_for("[1 Steps 6]")
        terminal.process.send_signal(number)
        assert terminal.ended() == 128 + number
        assert not terminal.alternate
        assert terminal.modes == terminal.modes_before


def test_a_crash_gives_the_terminal_back_and_shows_no_variables(env: dict[str, str]) -> None:
    with Terminal([sys.executable, "-c", _CRASH], env) as terminal:
        assert terminal.ended() == 70
        assert not terminal.alternate
        assert terminal.modes == terminal.modes_before
        assert "drawn no more" in terminal.text
        assert b"s3cret-in" not in terminal.output


def test_leaving_while_the_broker_says_nothing(service: FakeOperatorService, env: dict[str, str]) -> None:
    with Terminal(TOP, env) as terminal:
        terminal.wait_for("[1 Steps 6]")
        service.hang()
        asked = len(service.calls)
        terminal.wait(lambda: len(service.calls) > asked, "a question")
        terminal.press("q")
        assert terminal.ended() == 0
        assert not terminal.alternate


@pytest.mark.parametrize("term", ["linux", "screen", "xterm-256color"])
def test_a_small_terminal_of_any_kind(env: dict[str, str], term: str) -> None:
    """Eight colours at most, also where there are more; no mouse, no keyboard protocol."""
    with Terminal(TOP, {**env, "COLORTERM": "truecolor"}, columns=80, lines=24, term=term) as terminal:
        terminal.wait_for("[1 Steps 6]", "0/5 LOCKED f…", "q quit", "alerts 3", "Broker 6")
        terminal.press("/")
        terminal.wait_for("only rows with this text")
        terminal.press("extract\r\r")
        terminal.wait_for("to act on it", "1-9 copy")  # with a scroll bar
        terminal.press("\x1b")
        terminal.wait_for('1 of 6 with "extract"')
        terminal.press("q")
        assert terminal.ended() == 0
    colours = b"".join(_COLOURS.findall(terminal.output))
    assert b"31" in colours
    assert not re.search(rb"[34]8;[25]|[^0-9](9|10)[0-7][;m]", colours)
    assert not re.search(rb"\x1b\[\?1(000|002|003|006|015)h|\x1b\[>", terminal.output)


def test_no_color(env: dict[str, str]) -> None:
    with Terminal(TOP, {**env, "NO_COLOR": "1"}, columns=80, lines=24) as terminal:
        terminal.wait_for("[1 Steps 6]", "LOCKED")
        terminal.press("q")
        assert terminal.ended() == 0
    assert not re.search(rb"[^0-9][34][0-8][;m]", b"".join(_COLOURS.findall(terminal.output)))


def test_the_picture_in_the_docs_is_of_today(tmp_path: Path) -> None:
    """Else: python -m tests.support.top_picture."""
    assert (top_picture.draw(tmp_path) == top_picture.PICTURE.read_text()) is True


def test_names_write_nothing_but_letters(service: FakeOperatorService, env: dict[str, str]) -> None:
    bad = "\x1b]0;owned\x07\x1b[2J[bold red]x[/]\u202e"
    for lease in service.leases:
        lease.last_problem = bad
        lease.lease.scope = "[/]"
    service.steps[0].run = bad
    with Terminal(TOP, env, columns=160) as terminal:
        terminal.wait_for("[1 Steps 6]", r"]0;owned\x07\x1b[2J[bold red]x[/]\u202e")
        terminal.press("2")
        terminal.wait_for("[2 Leases 8]", r"\x1b]0;owned", "[/]")
        terminal.press("\r")
        terminal.wait_for(r"\x1b]0;owned\x07\x1b[2J[bold red]x[/]\u202e", "last problem")
        terminal.press("\x1b")
        terminal.wait_for("[2 Leases 8]")
        terminal.press("q")
        assert terminal.ended() == 0
        assert terminal.screen.title != "owned"
    assert b"\x1b]0;owned" not in terminal.output
