"""Whatever happens, in whatever order: in the end each sink has been told how each alert stands, and never twice of one change."""

from __future__ import annotations

import asyncio
import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.alerts.lanes import AlertLane
from broker.alerts.ledger import Ledger
from broker.alerts.post import Away
from broker.metrics import Metrics
from broker.store import alarms
from broker.store.base import Tx
from tests.fakes.alerting import FakeSink, an_alert
from tests.fakes.clock import FakeClock
from tests.fakes.memory_store import MemoryStore

Step = tuple[str, int, bool]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["sound", "hush", "sound", "hush", "refuse", "accept", "away", "back", "restart", "minute", "clock-back"]
        ),
        st.integers(0, 1),  # which alert
        st.booleans(),  # a round after it
    ),
    max_size=40,
)


def nothing(_tx: Tx) -> None:
    """This process may write."""


class Run:
    """One sink and its lane, which may be killed at any point between two rounds."""

    def __init__(self, batch: int) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore()
        self.sink = FakeSink(batch=batch)
        self.changes: list[tuple[str, str]] = []
        self.restart()

    def restart(self) -> None:
        self.lane = AlertLane(self.sink, Ledger(self.store, nothing, self.clock), Metrics())

    async def change(self, what: str, n: int) -> None:
        operation = alarms.sound if what == "sound" else alarms.hush
        if await self.store.write(lambda tx: operation(tx, an_alert(n), at=self.clock.now())):
            self.changes.append((str(n), "firing" if what == "sound" else "resolved"))

    async def round(self) -> None:
        with contextlib.suppress(Away):
            await self.lane.round()

    async def do(self, what: str, n: int) -> None:
        match what:
            case "sound" | "hush":
                await self.change(what, n)
            case "refuse":
                self.sink.refuses.add(str(n))
            case "accept":
                self.sink.refuses.discard(str(n))
            case "away" | "back":
                self.sink.fails = Away("no answer") if what == "away" else None
            case "restart":
                self.restart()
            case "minute":
                self.clock.advance(60)
            case _:
                self.clock.suspend(-86_400)


async def play(steps: list[Step], batch: int) -> Run:
    run = Run(batch)
    await run.store.write(lambda tx: tx.start_epoch(replica="a", boot_id="b", expires_boot=1.0, at=run.clock.now()))
    for what, n, look in steps:
        await run.do(what, n)
        if look:
            await run.round()
    run.sink.fails, run.sink.refuses = None, set()
    run.clock.advance(61)
    await run.round()
    await run.round()  # what fired and is over by now
    return run


@given(steps=STEPS, batch=st.sampled_from([1, 8]))
@settings(max_examples=200, deadline=None)
def test_in_the_end_each_alert_was_told_as_it_stands(steps: list[Step], batch: int) -> None:
    run = asyncio.run(play(steps, batch))
    for n in {name for name, _ in run.changes}:
        changes = [change for change in run.changes if change[0] == n]
        told = [one for one in run.sink.told if one[0] == n]
        assert told[-1] == changes[-1]
        assert len(told) <= len(changes)
        before = [(n, "resolved"), *told]
        ends = [begun for begun, (_, what) in zip(before, told, strict=False) if what == "resolved"]
        assert set(ends) <= {(n, "firing")}, "an end without its beginning"
