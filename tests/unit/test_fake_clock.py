import asyncio
from datetime import timedelta

from broker.clock import Clock
from tests.fakes.clock import START, FakeClock


async def test_advance_wakes_only_the_sleepers_that_are_due() -> None:
    clock: FakeClock = FakeClock()
    seen: list[str] = []

    async def nap(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        seen.append(name)

    tasks = [asyncio.create_task(nap("long", 10)), asyncio.create_task(nap("short", 5))]
    await asyncio.sleep(0)
    assert clock.sleeping == 2
    clock.advance(4.9)
    await asyncio.sleep(0)
    assert seen == []
    clock.advance(0.1)
    await tasks[1]
    assert seen == ["short"]
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert clock.sleeping == 0


async def test_run_lets_a_loop_sleep_many_times() -> None:
    clock = FakeClock()
    ticks = 0

    async def loop() -> None:
        nonlocal ticks
        while True:
            await clock.sleep(1)
            ticks += 1

    task = asyncio.create_task(loop())
    await asyncio.sleep(0)
    await clock.run(10)
    task.cancel()
    assert ticks == 10


def test_the_three_hands_move_apart() -> None:
    clock: Clock = (fake := FakeClock())
    monotonic, boottime = clock.monotonic(), clock.boottime()
    fake.suspend(60)
    assert (clock.now(), clock.monotonic(), clock.boottime()) == (
        START + timedelta(seconds=60),
        monotonic,
        boottime + 60,
    )
    fake.set_wall(START - timedelta(days=1))
    assert (clock.now(), clock.boottime()) == (START - timedelta(days=1), boottime + 60)
