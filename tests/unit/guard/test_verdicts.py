from datetime import timedelta

import pytest

from broker.errors import Reason
from broker.guard.verdicts import Ceiling, Cooling, GuardRefusal, Held, HoldNow, Locked, LockNow, Why, as_error
from broker.model import Verdict
from broker.store.guard import GuardRow
from tests.fakes.clock import START

ROW = GuardRow(key="k", hour_key="h", tier="high", about={"workload": "load"})


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (LockNow(row=ROW, until=START), Reason.LOCKED),
        (Locked(until=START), Reason.LOCKED),
        (HoldNow(row=ROW), Reason.HELD),
        (Held(), Reason.HELD),
        (Ceiling(row=ROW), Reason.CEILING),
        (Ceiling(), Reason.CEILING),
    ],
)
def test_what_ends_only_by_a_person_or_an_hour_is_never_to_be_retried(verdict: GuardRefusal, reason: Reason) -> None:
    error = as_error(verdict)
    assert (error.reason, error.verdict, error.retry_after) == (reason, Verdict.NEVER, None)


@pytest.mark.parametrize(("wait", "told"), [(0.0, 1), (0.2, 1), (1.0, 1), (1.000001, 2), (59.3, 60)])
def test_cooling_is_told_in_whole_seconds_never_too_few(wait: float, told: int) -> None:
    error = as_error(Cooling(until=START, wait=timedelta(seconds=wait), why=Why.BUDGET))
    assert (error.reason, error.verdict) == (Reason.COOLING, Verdict.RETRY_AFTER)
    assert error.retry_after == timedelta(seconds=told)
    assert error.metadata == {"cooling": "BUDGET"}
