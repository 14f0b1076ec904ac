"""A refusal's reference is told only when its record is durable, whoever vanishes meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.errors import BrokerError, Reason
from tests.fakes.memory_store import MemoryStore
from tests.fakes.world import World, agent


def denied() -> BrokerError:
    return BrokerError(Reason.ACCESS_DENIED, "no")


async def test_the_callers_cancellation_lets_nobody_else_be_told_too_early(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals, write, disk = broker.engine._refusals, MemoryStore.write, asyncio.Event()

    async def slow(self: MemoryStore, operation: Any, **how: Any) -> Any:
        await disk.wait()
        return await write(self, operation, **how)

    for _ in range(5):
        await refusals.record(agent(), "IssueCredential", denied())
    monkeypatch.setattr(MemoryStore, "write", slow)
    first = asyncio.create_task(refusals.record(agent(), "IssueCredential", denied()))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(refusals.record(agent(), "IssueCredential", denied()))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0.01)
    assert not second.done()
    disk.set()
    await asyncio.wait_for(second, 15)


async def test_counts_are_written_once_though_the_flush_was_cancelled(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals, write = broker.engine._refusals, MemoryStore.write

    async def slow(self: MemoryStore, operation: Any, **how: Any) -> Any:
        result = await write(self, operation, **how)
        await asyncio.sleep(0.05)
        return result

    for _ in range(9):
        await refusals.record(agent(), "IssueCredential", denied())
    monkeypatch.setattr(MemoryStore, "write", slow)
    broker.fake_clock.advance(61)
    flushing = asyncio.create_task(refusals.flush())
    await asyncio.sleep(0.01)
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)
    await refusals.flush(everything=True)
    assert (await broker.journal_kinds()).count("DENIALS_COUNTED") == 1
