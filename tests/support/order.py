"""Which file is run when by several workers: the longest first, and what waits among what computes.

In the order of the folders all workers would wait for servers at the same time, and then compute at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pytest

WAITING = ("e2e", "integration")  # folders below tests/
LONGEST = (  # half a minute and more; the rest as they come
    "test_provider_faults",
    "test_aws_faults",
    "test_time",
    "test_demo",
    "test_reloads",
    "test_database_faults",
    "test_runaway",
    "test_fuzz",
    "test_crash",
    "test_restored",
    "test_crash_aws",
    "test_bench",
    "test_aws_minute",
    "test_bad_surroundings",
    "test_dev_broker",
    "test_in_flight",
    "test_unnoticed",
    "test_unmodified_programs",
)


def spread(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The same tests; those of one file stay together."""
    files = [list(tests) for _, tests in groupby(items, lambda item: item.path)]
    waiting = sorted((tests for tests in files if _waits(tests[0].path)), key=_rank)
    computing = [tests for tests in files if not _waits(tests[0].path)]
    return [test for tests in _merged(waiting, computing) for test in tests]


def _waits(path: Path) -> bool:
    return path.parent.name in WAITING


def _rank(tests: list[pytest.Item]) -> int:
    name = tests[0].path.stem
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def _merged(some: list[list[pytest.Item]], others: list[list[pytest.Item]]) -> Iterator[list[pytest.Item]]:
    """Evenly."""
    for number, one in enumerate(some):
        yield one
        yield from others[len(others) * number // len(some) : len(others) * (number + 1) // len(some)]
    if not some:
        yield from others
