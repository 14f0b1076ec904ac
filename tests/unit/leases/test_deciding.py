"""While maps are being loaded a question is decided again, but not for ever."""

from __future__ import annotations

import pytest

from broker.errors import Reason
from broker.leases.core import PolicyMoved
from broker.leases.deciding import DECIDE_AGAIN, by_one_map
from tests.fakes.world import refusal


@pytest.mark.parametrize("moves", range(DECIDE_AGAIN + 1))
async def test_what_moved_maps_leave_of_a_question(moves: int) -> None:
    asked = 0

    async def attempt() -> str:
        nonlocal asked
        asked += 1
        if asked <= moves:
            raise PolicyMoved
        return "decided"

    if moves < DECIDE_AGAIN:
        assert await by_one_map(attempt) == "decided"
    else:
        error = await refusal(by_one_map(attempt))
        assert (error.reason, error.retry_after is not None) == (Reason.EPOCH_LOST, True)
    assert asked == min(moves + 1, DECIDE_AGAIN)
