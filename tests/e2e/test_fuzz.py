"""The fuzzer's short form finds nothing, and finds what is broken on purpose. `make fuzz MINUTES=60` is the long form.

What was found once is replayed by tests/unit/fuzz, without a fuzzer.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.fuzz.__main__ import MISSING, TODAYS, todays
from tests.fuzz.targets import NAMES
from tests.support.examples import LONG

pytestmark = pytest.mark.skipif(find_spec("atheris") is None, reason=MISSING)


def fuzz(*args: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *args, "--fresh"], capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_a_short_run_over_a_third_of_the_targets_or_all_of_them_finds_nothing() -> None:
    code, told = fuzz("all" if LONG else TODAYS, "--minutes", "0.1", "--jobs", "2")
    assert code == 0, told
    rows = {line.split()[0]: line.split() for line in told.partition("\ntarget ")[2].splitlines()[1:]}
    assert set(rows) >= set(NAMES if LONG else todays())
    for name in rows:
        assert int(rows[name][1].replace(",", "")) >= 4, told


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("target", "mutant", "found"),
    [
        ("spiffe_id", "folds-case", "assert str(found) == text"),
        ("certificate", "believes-cryptography", "Uncaught Python exception"),
        ("requests", "takes-any-duration", "OverflowError"),
        ("scope_map", "trusts-ruamel", "ValueError"),
    ],
)
def test_a_broken_reader_is_found_out(target: str, mutant: str, found: str) -> None:
    code, told = fuzz(target, "--mutant", mutant, "--minutes", "2")
    assert code == 1, told
    assert found in told
    assert f"--replay build/fuzz/findings/{target}-{mutant}/crash-" in told
