"""Run the real commands, as an operator or a scheduler would."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.demo.screen import Stopwatch
from tests.support.processes import stop

BIN = Path(sys.executable).parent
LONGEST = 40  # seconds that one command may take
# What somebody's shell may hold, and what would send our calls elsewhere or colour captured output.
_LEAVE_OUT = ("STEPCRED_", "VAULT_", "BAO_", "AWS_", "FORCE_COLOR", "CLICOLOR")


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What became of a command: exit code, what it printed (both streams, in order), seconds."""

    code: int
    lines: list[str]
    seconds: float

    @property
    def last(self) -> str:
        return self.lines[-1] if self.lines else f"exit {self.code}"


def clean_environment() -> dict[str, str]:
    """Ours without other people's settings, with the commands first on the path."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_LEAVE_OUT) and not name.lower().endswith("_proxy")
    }
    files = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull)
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**kept, **files, "PATH": path, "NO_COLOR": "1", "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, kw_only=True)
class Running:
    """A command that was started."""

    process: subprocess.Popen[bytes]
    watch: Stopwatch

    @property
    def over(self) -> bool:
        return self.process.poll() is not None

    def wait(self) -> Ran:
        """To its end. Raises TimeoutExpired when there is none."""
        printed, _ = self.process.communicate(timeout=LONGEST)
        lines = printed.decode(errors="replace").splitlines()
        return Ran(code=self.process.returncode, lines=lines, seconds=self.watch.seconds)


@contextlib.contextmanager
def started(program: str, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """A program of this environment beside us; it does not outlive the block."""
    watch = Stopwatch()
    argv: Sequence[str | Path] = [BIN / program, *arguments]
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**clean_environment(), **(env or {})},
    ) as process:
        try:
            yield Running(process=process, watch=watch)
        finally:
            stop(process)


def run(program: str, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Ran:
    """The same to its end; never raises for what it answers, only when it does not end."""
    with started(program, *arguments, env=env) as running:
        return running.wait()
