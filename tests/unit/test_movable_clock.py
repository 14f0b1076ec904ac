from __future__ import annotations

import asyncio
from datetime import timedelta

from broker.clock import MovableClock, SystemClock

HOUR = timedelta(hours=1)


def test_all_hands_move_together() -> None:
    clock, system = MovableClock(), SystemClock()
    clock.move(HOUR)
    clock.move(HOUR)
    assert clock.ahead == 2 * HOUR
    assert timedelta(0) <= clock.now() - system.now() - 2 * HOUR + timedelta(seconds=60) < timedelta(seconds=120)
    assert clock.monotonic() - system.monotonic() > 7000
    assert clock.boottime() - system.boottime() > 7000
    moment = clock.moment()
    assert moment.boot - system.boottime() > 7000  # within one boot, so that elapsed time is what counts
    assert moment.boot_id == system.moment().boot_id
    clock.reset()
    assert clock.boottime() - system.boottime() < 7000


async def test_who_sleeps_wakes_when_its_time_has_come_and_not_before() -> None:
    clock = MovableClock()
    soon, late = (asyncio.create_task(clock.sleep(seconds)) for seconds in (1800.0, 5400.0))
    await asyncio.sleep(0)
    clock.move(HOUR)
    await asyncio.wait_for(soon, 10)
    assert not late.done()
    clock.move(HOUR)
    await asyncio.wait_for(late, 10)


async def test_a_sleep_that_is_over_lets_others_run() -> None:
    clock = MovableClock()
    ran: list[int] = []
    asyncio.get_running_loop().call_soon(ran.append, 1)
    await clock.sleep(0)
    assert ran == [1]
