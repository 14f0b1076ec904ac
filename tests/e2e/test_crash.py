"""The crash harness itself: a short run finds nothing, and without the durable intent it finds much."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.crash.points import POINTS


def crash(*args: str) -> tuple[int, str]:
    """(exit code, last line)."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", *args], capture_output=True, text=True, timeout=240, check=False
    )
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    return done.returncode, lines[-1]


@pytest.mark.parametrize("name", POINTS)
def test_every_named_point_is_in_the_daemon(name: str) -> None:
    assert callable(getattr(POINTS[name].owner, POINTS[name].name))


def test_i1_i2_killed_at_any_point_nothing_is_unknown_duplicate_or_leaked() -> None:
    assert crash("--kills", "8", "--seed", "4") == (0, "crash: 8 kills, 0 unknown, 0 duplicate, 0 leaked")


def test_i1_without_the_durable_intent_the_harness_finds_unknown_credentials() -> None:
    code, last = crash("--kills", "4", "--seed", "2", "--mutant", "no-intent", "--no-rest")
    found = re.fullmatch(r"crash: 4 kills, (\d+) unknown, \d+ duplicate, 0 leaked", last)
    assert code == 1
    assert found
    assert int(found[1]) > 0
