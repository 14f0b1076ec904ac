from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from broker.providers.heard import HeardTime
from tests.fakes.clock import FakeClock

NOON = "Sun, 22 Nov 2026 12:00:00 GMT"


def test_before_the_first_answer_nothing_is_known() -> None:
    assert HeardTime(FakeClock()).now() is None


def test_the_heard_time_goes_on_by_elapsed_time_and_not_with_the_wall_clock() -> None:
    clock = FakeClock()
    heard = HeardTime(clock)
    heard.hear(NOON)
    clock.advance(90)
    clock.set_wall(clock.now() + timedelta(days=1))
    assert heard.now() == datetime(2026, 11, 22, 12, 1, 30, tzinfo=UTC)


def test_time_spent_asleep_counts() -> None:
    clock = FakeClock()
    heard = HeardTime(clock)
    heard.hear(NOON)
    clock.suspend(3600)
    assert heard.now() == datetime(2026, 11, 22, 13, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "date",
    [
        "",
        "yesterday",
        "Sun, 99 Nov 2026 12:00:00 GMT",
        "Sun, 22 Nov 2026 12:00:00 -0000",
        "Fri, 31 Dec 9999 23:59:59 -1200",
    ],
)
def test_a_header_that_cannot_be_read_tells_nothing(date: str) -> None:
    heard = HeardTime(FakeClock())
    heard.hear(NOON)
    before = heard.now()
    heard.hear(date)
    assert heard.now() == before
