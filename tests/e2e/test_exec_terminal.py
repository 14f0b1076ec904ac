"""`stepcred exec` typed into a shell under tmux, against the real daemon: exit codes, and what is dead afterwards."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.wire import new_id
from tests.e2e.world import LOAD, Site
from tests.support.processes import wait_until

STEPCRED = str(Path(sys.executable).parent / "stepcred")
PROVEN = r"stepcred: 1 credential dead, proven in"

pytestmark = [
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed (apt-get install tmux)"),
    pytest.mark.usefixtures("untouched"),
]


class Tmux:
    """One pane with an interactive shell, which has the job control that a person has."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        shell = ["env", "-u", "TMUX", "PS1=$ ", "bash", "--norc", "--noprofile", "-i"]
        start = [*self._tmux, "new-session", "-d", "-x", "500", "-y", "50", *shell]
        subprocess.run(start, env={**os.environ, **env}, check=True, timeout=20)

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, timeout=20, capture_output=True)

    def press(self, *keys: str) -> None:
        subprocess.run([*self._tmux, "send-keys", *keys], check=True, timeout=20)

    def type(self, line: str) -> None:
        subprocess.run([*self._tmux, "send-keys", "-l", line], check=True, timeout=20)
        self.press("Enter")

    @property
    def text(self) -> str:
        shown = subprocess.run(
            [*self._tmux, "capture-pane", "-p"], check=True, capture_output=True, text=True, timeout=20
        )
        return shown.stdout

    def until(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + 20
        while not (found := re.search(pattern, self.text, re.MULTILINE)):
            assert time.monotonic() < deadline, f"{pattern} is not on {self.text}"
            time.sleep(0.05)
        return found


@pytest.fixture(scope="module")
def tmux(site: Site) -> Iterator[Tmux]:
    deployment = site.deployment()
    names = {"STEPCRED_WORKFLOW": "nightly", "STEPCRED_STEP": "load"}
    with deployment.daemon(), tempfile.TemporaryDirectory(prefix="tmux") as folder:
        made = Tmux(Path(folder), {**deployment.env(deployment.agent(LOAD)), **names})
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(autouse=True)
def _clear(tmux: Tmux) -> None:
    """Nothing of the test before is on the screen: it would be taken for this one's."""
    marker = new_id()
    tmux.type(f"clear; echo {marker[:8]}''{marker[8:]}")
    tmux.until(f"^{marker}")


def exec_(script: str, *options: str, before: str = ":") -> str:
    """One line for the shell; the child says READY and exec's own process id, in a way that its echo does not."""
    ready = 'printf "%s %s.\\n" REA""DY $PPID'
    command = [STEPCRED, "exec", "--run", new_id(), "--scope", "token", *options]
    return f"{shlex.join(command)} -- sh -c {shlex.quote(f'{before}; {ready}; {script}')}"


def ready(tmux: Tmux, line: str) -> int:
    """Typed, running, and its process id."""
    tmux.type(line)
    return int(tmux.until(r"^READY (\d+)\.")[1])


def code(tmux: Tmux) -> int:
    """What the shell makes of its end, after our last word."""
    tmux.until(PROVEN)
    tmux.type("echo co''de=$?")
    return int(tmux.until(r"^code=(\d+)")[1])


@pytest.mark.parametrize("options", [(), ("--no-mask",)], ids=["masked", "unmasked"])
def test_ctrl_c_ends_the_child_once_and_the_credential(tmux: Tmux, site: Site, options: tuple[str, ...]) -> None:
    ready(tmux, exec_("sleep 60; echo survived", *options))
    assert site.live_tokens()
    tmux.press("C-c")
    assert code(tmux) == 128 + signal.SIGINT
    assert "survived" not in tmux.text.replace("echo survived", "")
    assert not site.live_tokens()


def test_ctrl_z_cannot_stop_what_would_lose_its_credential(tmux: Tmux, site: Site) -> None:
    ready(tmux, exec_("read line; echo got=$line=; exit 7"))
    tmux.press("C-z")
    tmux.type("blue")
    tmux.until("^got=blue=")
    assert code(tmux) == 7
    assert not site.live_tokens()


def test_sigterm_ends_both_and_the_terminal_is_as_it_was(tmux: Tmux, site: Site) -> None:
    pid = ready(tmux, exec_("exec sleep 60"))
    os.kill(pid, signal.SIGTERM)
    assert code(tmux) == 128 + signal.SIGTERM  # what was typed for it was echoed, and read by the shell
    tmux.type("stty -a | tr ' ' '\\n' | grep -x -e echo -e icanon -e isig -e opost | tr '\\n' ,")
    tmux.until("^(opost,)?isig,icanon,echo,")
    assert not site.live_tokens()


def test_a_child_that_ignores_both_is_killed_in_time(tmux: Tmux, site: Site) -> None:
    pid = ready(tmux, exec_("while :; do sleep 1; echo still; done", "--kill-after", "2s", before="trap '' INT TERM"))
    tmux.press("C-c")
    tmux.until("^still")
    os.kill(pid, signal.SIGTERM)
    assert site.live_tokens()
    tmux.until("^stepcred: the child is still there 2 s after SIGTERM: killed")
    assert code(tmux) == 128 + signal.SIGKILL
    assert not site.live_tokens()


def test_a_child_that_forks_twice_is_done_when_it_says_so(tmux: Tmux, site: Site, tmp_path: Path) -> None:
    """What it leaves behind goes on without a live credential, and without our terminal."""
    (tmp_path / "daemon").write_text(f"trap '' HUP; echo $$ > {tmp_path}/pid; exec sleep 60\n")
    ready(tmux, exec_(f"(setsid sh {tmp_path}/daemon &); until [ -s {tmp_path}/pid ]; do :; done; exit 3"))
    assert code(tmux) == 3
    assert not site.live_tokens()
    left = int((tmp_path / "pid").read_text())
    os.kill(left, 0)
    os.kill(left, signal.SIGKILL)


def test_in_a_pipeline_the_child_reads_the_keys_and_ctrl_c_reaches_all(tmux: Tmux, site: Site) -> None:
    ready(tmux, exec_("read line; echo got=$line= $VAULT_TOKEN; sleep 60") + " | cat")
    tmux.type("blue")
    tmux.until(r"^got=blue= \*\*\*")
    tmux.press("C-c")
    tmux.until(PROVEN)
    wait_until(lambda: not site.live_tokens(), within=10, what="the end of the token")


def test_in_the_background_it_runs_and_is_not_stopped(tmux: Tmux, site: Site) -> None:
    tmux.type(exec_("exit 5") + " & wait $!; echo co''de=$?")
    tmux.until(PROVEN)
    assert tmux.until(r"^code=(\d+)")[1] == "5"
    assert not site.live_tokens()
