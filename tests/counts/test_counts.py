"""No operation costs more than is written down in `expected.toml`, and none costs less without it being written down."""

from __future__ import annotations

import pytest

from tests.counts import figures
from tests.counts.operations import measured

EXPECTED = figures.read()


@pytest.fixture(scope="module")
def found() -> figures.Figures:
    return measured()


@pytest.mark.parametrize("operation", EXPECTED)
def test_an_operation_costs_what_is_written_down(found: figures.Figures, operation: str) -> None:
    rows = figures.differences(EXPECTED, found, operation)
    if rows:
        pytest.fail(f"{figures.table(operation, rows)}\n\nIf this is as it should be: {figures.AGAIN}", pytrace=False)


def test_every_operation_that_is_counted_is_written_down(found: figures.Figures) -> None:
    assert list(found) == list(EXPECTED), figures.AGAIN
