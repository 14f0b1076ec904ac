"""Floods and bombs on a running daemon: a short run does no harm, and without one limit the harness sees it.

`make attack` is the long form, which also judges how long honest calls take.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attack.attacks import ATTACKS
from tests.attack.harness import AFTERWARDS, CALM, REHEARSAL

pytestmark = pytest.mark.alone


def attack(*args: str) -> tuple[int, str]:
    """(exit code, table)."""
    argv = [sys.executable, "-m", "tests.attack", "--size", "short", "--safety", *args]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout, done.stderr
    return done.returncode, done.stdout


@pytest.mark.timeout(300)
def test_every_attack_leaves_the_honest_served_the_memory_back_and_the_disk_alone(tmp_path: Path) -> None:
    code, table = attack("--json", str(tmp_path / "found.json"))
    assert code == 0, table
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert {row["attack"] for row in rows} == {*ATTACKS, CALM, REHEARSAL, AFTERWARDS}
    assert all(sum(row["told"].values()) > 1 for row in rows if row["attack"] in ATTACKS), table  # none did nothing


@pytest.mark.parametrize(
    ("mutant", "by", "found"),
    [
        ("no-aggregation", "refused-requests", "the database grew by"),
        ("no-fair-share", "hoarded-places", "success"),
    ],
)
def test_a_daemon_without_this_is_found_out(mutant: str, by: str, found: str, tmp_path: Path) -> None:
    code, table = attack("--no-memory", "--mutant", mutant, "--only", by, "--json", str(tmp_path / "found.json"))
    assert code == 1
    (calm,) = (row for row in json.loads((tmp_path / "found.json").read_text())["rows"] if row["attack"] == CALM)
    assert calm["problems"] == [], table  # the mutant itself serves
    (row,) = (line for line in table.splitlines() if f"│ {by}" in line)
    assert found in row, table
