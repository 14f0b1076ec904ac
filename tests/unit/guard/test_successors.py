from datetime import timedelta

import pytest

from broker.guard.successors import successor_allowance
from tests.fakes.clock import START


@pytest.mark.parametrize(
    ("span", "ttl", "allowed"),
    [(0, 600, 0), (-60, 600, 0), (1, 600, 1), (400, 600, 1), (400.000001, 600, 2), (86_400, 900, 144), (3600, 700, 8)],
)
def test_a_step_gets_as_many_successors_as_its_time_needs(span: float, ttl: float, allowed: int) -> None:
    deadline = START + timedelta(seconds=span)
    assert successor_allowance(first_mint=START, step_deadline=deadline, ttl=timedelta(seconds=ttl)) == allowed
