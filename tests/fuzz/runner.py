"""Runs a target in a child with bounds on time and memory, and reads what libFuzzer says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from tests.fuzz.seeds import ROOT
from tests.fuzz.targets import load

BUILD = ROOT / "build" / "fuzz"
FOUND = Path(__file__).parent / "found"  # inputs that once were findings; kept, and replayed by the suite
INPUT_SECONDS = 60  # for one input, on a machine that has other things to do
MEMORY_MB = 1500  # resident; the interpreter and the broker take 150
GRACE_SECONDS = 60.0  # beyond what was asked for: the corpus is read, and a slow input ends
_LINE = re.compile(r"^#(\d+)\s+(\w+)\s+cov: (\d+) ft: \d+ corp: (\d+)")
_STAT = re.compile(r"^stat::number_of_executed_units:\s+(\d+)")
_FAILED = ("crash-", "timeout-", "oom-", "leak-")


@dataclass(kw_only=True, slots=True)
class Result:
    """What came of one target."""

    name: str
    executions: int = 0
    covered_first: int = 0  # branches that the seeds and the corpus reach
    covered: int = 0
    corpus: int = 0
    findings: list[Path] = field(default_factory=list)
    failure: str = ""  # of the process itself
    told: list[str] = field(default_factory=list)  # its last lines

    @property
    def bad(self) -> bool:
        return bool(self.findings or self.failure)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How to fuzz one target."""

    name: str
    seconds: int
    seed: int
    corpus: Path | None  # the folder above the targets'; None: nothing is kept
    mutant: str = ""


def run(plan: Plan, say: Callable[[Result], None]) -> Result:
    """Blocks. `say` is called with every line that counts."""
    result = Result(name=plan.name)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        scratch = Path(name)
        command = [sys.executable, "-m", "tests.fuzz.one", plan.name, str(_folder(scratch / "world")), plan.mutant]
        command += _arguments(plan, scratch)
        child = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        watchdog = threading.Timer(plan.seconds + GRACE_SECONDS, child.kill)
        watchdog.start()
        try:
            assert child.stdout is not None
            for line in child.stdout:
                _hear(result, line.rstrip(), say)
            code = child.wait()
        finally:
            watchdog.cancel()
            child.kill()
            child.wait()
        result.findings = [_kept(path, plan) for path in scratch.iterdir() if path.name.startswith(_FAILED)]
    if code and not result.findings:
        result.failure = f"ended with {code}"
    return result


def _arguments(plan: Plan, scratch: Path) -> list[str]:
    target = load(plan.name)
    seeds, dictionary = _folder(scratch / "seeds"), scratch / "words"
    for seed in [*target.seeds(), *(path.read_bytes() for path in found(plan.name))]:
        (seeds / sha256(seed).hexdigest()[:16]).write_bytes(seed[: target.max_bytes])
    words = [*target.words, plan.name.encode()]  # libFuzzer refuses an empty dictionary
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in words if word))
    corpus = _folder(plan.corpus / plan.name if plan.corpus else scratch / "corpus")
    return [
        f"-max_total_time={plan.seconds}",
        f"-seed={plan.seed}",
        f"-max_len={target.max_bytes}",
        f"-timeout={INPUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-dict={dictionary}",
        f"-artifact_prefix={scratch}/",
        "-print_final_stats=1",
        str(corpus),
        str(seeds),
    ]


def found(name: str) -> list[Path]:
    """Inputs of this target that once were findings."""
    return sorted((FOUND / name).glob("*"))


def _kept(path: Path, plan: Plan) -> Path:
    """Where a finding outlives the run."""
    folder = _folder(BUILD / "findings" / (plan.name + (f"-{plan.mutant}" if plan.mutant else "")))
    return Path(shutil.copy(path, folder))


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _hear(result: Result, line: str, say: Callable[[Result], None]) -> None:
    if match := _LINE.match(line):
        result.executions, result.corpus = int(match[1]), int(match[4])
        result.covered = int(match[3])
        if match[2] == "INITED":
            result.covered_first = result.covered
        say(result)
    elif match := _STAT.match(line):
        result.executions = int(match[1])
    elif not line.startswith(("INFO:", "WARNING:", "stat::", "#")):
        result.told = [*result.told[-60:], line]
