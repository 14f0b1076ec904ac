"""`python -m tests.fuzz TARGET|all|todays`: exit code 1 when anything was found, 69 where atheris is not installed."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.runner import BUILD, FOUND, Plan, Result, run
from tests.fuzz.seeds import ROOT
from tests.fuzz.targets import NAMES, load

MISSING = "atheris is not installed here (it has wheels for Linux on x86_64 and Python up to 3.13): nothing is fuzzed"
EVERY = 15.0  # seconds between two words about one target
LEAST = 1  # second for a target
TODAYS = "todays"
SHARE = 3  # days for all of them


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=["all", TODAYS, *NAMES], help=f"{TODAYS}: a third, another one each day")
    parser.add_argument("--minutes", type=float, default=10, help="in all; the targets share them")
    parser.add_argument("--seed", type=int, default=1, help="what is mutated how; 0 takes another one each time")
    parser.add_argument("--corpus", type=Path, default=BUILD / "corpus", help="grows from run to run")
    parser.add_argument("--fresh", action="store_true", help="from the seeds alone, and keep no corpus")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at once")
    parser.add_argument("--mutant", default="", help="a broken reader: it must be found out")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="only these inputs; needs no atheris")
    asked = parser.parse_args()
    if asked.replay:
        return _replay(asked.target, asked.mutant, asked.replay)
    if find_spec("atheris") is None:
        _say(MISSING)
        return os.EX_UNAVAILABLE
    names = {"all": NAMES, TODAYS: todays()}.get(asked.target, (asked.target,))
    jobs = max(1, min(asked.jobs, len(names)))
    seconds = max(LEAST, int(asked.minutes * 60 * jobs / len(names)))
    _say(f"{len(names)} targets, {jobs} at once, {seconds} s each, seed {asked.seed}")
    corpus = None if asked.fresh else asked.corpus.resolve()
    plans = [Plan(name=name, seconds=seconds, seed=asked.seed, corpus=corpus, mutant=asked.mutant) for name in names]
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(_watched, plans))
    _table(results)
    return int(any(result.bad for result in results))


def todays() -> tuple[str, ...]:
    """Each start of a target costs seconds of CPU, whatever it does then: the suite's short form has not the time for all."""
    return tuple(NAMES[int(time.time() // 86_400) % SHARE :: SHARE])


def _watched(plan: Plan) -> Result:
    """Run, and say now and then how far it is."""
    last = time.monotonic()

    def say(result: Result) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            _say(f"{result.name}: {result.executions:,} executions, {result.covered:,} branches")

    result = run(plan, say)
    _say(f"{result.name}: {result.failure or 'FOUND SOMETHING' if result.bad else 'done'}")
    _findings(result)
    return result


def _table(results: list[Result]) -> None:
    print(f"\n{'target':<14}{'executions':>12}{'branches':>10}{'of them new':>13}{'corpus':>8}{'findings':>10}")
    for one in results:
        new = one.covered - one.covered_first
        count = len(one.findings) or ("failed" if one.failure else 0)
        print(f"{one.name:<14}{one.executions:>12,}{one.covered:>10,}{new:>13,}{one.corpus:>8,}{count:>10}")
    print(f"{'all':<14}{sum(one.executions for one in results):>12,}", flush=True)


def _findings(result: Result) -> None:
    if result.bad:
        print(f"\n{result.name}: {result.failure or 'found by an input'}", *result.told[-40:], sep="\n  ")
    for path in result.findings:
        shown = path.relative_to(ROOT)
        print(f"  again: .venv/bin/python -m tests.fuzz {result.name} --replay {shown}")
        print(f"  keep:  cp {shown} {(FOUND / result.name).relative_to(ROOT)}/")


def _replay(name: str, mutant: str, paths: list[Path]) -> int:
    """Without a fuzzer; the exception is the answer."""
    if name == "all":
        _say("name the target that the input is of")
        return os.EX_USAGE
    target = load(name)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, ExitStack() as stack:
        if mutant:
            stack.enter_context(target.mutants[mutant]())
        check = stack.enter_context(target.ready(Path(folder)))
        for path in paths:
            check(path.read_bytes())
            _say(f"{name}: nothing is wrong with {path}")
    return 0


def _say(text: str) -> None:
    print(f"fuzz: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
