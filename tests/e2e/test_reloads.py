"""Maps that change under load: a short run finds nothing, and without one mechanism the harness finds what it is for.

`make reloads RELOADS=1000` is the long form; STEPCRED_RELOADS sets how many this one makes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

RELOADS = int(os.environ.get("STEPCRED_RELOADS", "36"))


def reloads(*args: str) -> tuple[int, str]:
    """(exit code, last line)."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.reloads", *args], capture_output=True, text=True, timeout=1200, check=False
    )
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    return done.returncode, lines[-1] if not done.returncode else done.stdout


@pytest.mark.timeout(1200)
def test_i7_reloads_under_load_a_third_of_them_broken() -> None:
    """No request is decided by a broken or half-loaded map, none is lost, nothing lives on whose grant went."""
    told = f"reloads: {RELOADS} reloads, {(RELOADS + 1) // 3} refused, 0 wrong decisions, 0 lost, 0 leaked"
    assert reloads("--reloads", str(RELOADS), "--seed", "3") == (0, told)


@pytest.mark.parametrize(
    ("mutant", "found"),
    [
        ("no-generation", r"intent by v\d+ .* under Version"),
        ("no-second-decision", "delivered though nothing gives it"),
        ("no-sweep", r"lease \w+, 5 s after"),
        ("no-settle", "a map that nobody wrote whole is in force"),
    ],
)
def test_a_daemon_without_this_is_found_out(mutant: str, found: str) -> None:
    code, told = reloads("--reloads", "150", "--mutant", mutant, "--until", found)
    assert code == 1
    assert re.search(found, told), told
