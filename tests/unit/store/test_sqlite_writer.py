"""The writer thread: grouping, failures of a whole group, and what survives them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from pathlib import Path
from typing import cast

import pytest

from broker.errors import StoreConflict, StoreError, StoreFull
from broker.journal.chain import Head, verify
from broker.store.base import Tx, tail
from broker.store.sqlite import SqliteStore, open_store
from broker.store.sqlite.database import Database
from broker.store.sqlite.tx import SqliteTx
from tests.fakes.domain import denied, lease, step


def database_of(tx: Tx) -> Database:
    return cast(SqliteTx, tx)._db


class Gate:
    """Keeps the writer busy until opened, so that what is submitted meanwhile makes one group."""

    def __init__(self, store: SqliteStore) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()
        self._task = asyncio.create_task(store.write(self._wait))

    def _wait(self, tx: Tx) -> None:
        self._reached.set()
        assert self._open.wait(10)

    async def __aenter__(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 10)

    async def __aexit__(self, *error: object) -> None:
        await asyncio.sleep(0)  # the tasks made inside have submitted
        self._open.set()
        await self._task


async def generation(store: SqliteStore) -> int:
    return await asyncio.wait_for(store.write(lambda tx: tx.raise_generation(), quick=True), 10)


async def chain_problems(store: SqliteStore) -> list[str]:
    return await store.read(lambda tx: verify(tail(tx)))


async def test_what_waits_together_is_committed_together(store: SqliteStore) -> None:
    before = store.commits
    async with Gate(store):
        waiting = asyncio.gather(*(store.write(lambda tx: tx.append(denied())) for _ in range(64)))
    heads = await waiting
    assert [head.seq for head in heads] == list(range(1, 65))
    assert store.commits - before == 2  # the gate's own, and one for all 64


async def test_a_group_is_bounded(path: Path) -> None:
    store = open_store(path, max_group=10)
    async with Gate(store):
        waiting = asyncio.gather(*(store.write(lambda tx: tx.raise_generation()) for _ in range(64)))
    assert await waiting == list(range(1, 65))
    assert store.commits == 1 + 7
    await store.close()


async def test_closing_finishes_what_was_queued(path: Path) -> None:
    store = open_store(path)
    async with Gate(store):
        waiting = asyncio.gather(*(store.write(lambda tx: tx.raise_generation()) for _ in range(64)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.close())
    assert await waiting == list(range(1, 65))
    await closing


async def test_a_failed_commit_is_told_to_everyone_and_the_journal_goes_on(store: SqliteStore) -> None:
    def breaks_the_commit(tx: Tx) -> None:
        """A foreign key checked only at COMMIT: the operation itself succeeds."""
        database_of(tx).run("PRAGMA defer_foreign_keys = ON")
        tx.insert_lease(lease(step_id="nobody"))

    def refuses(tx: Tx) -> None:
        raise KeyError("own reason")

    async with Gate(store):
        waiting = asyncio.gather(
            store.write(lambda tx: tx.append(denied("lost"))),
            store.write(breaks_the_commit),
            store.write(refuses),
            store.write(lambda tx: tx.insert_step(step())),
            return_exceptions=True,
        )
    first, second, refused, last = await waiting
    assert [type(error) for error in (first, second, last)] == [StoreError] * 3
    assert isinstance(refused, KeyError)
    assert await store.read(lambda tx: (tx.step("step-1"), tx.lease("lease-1"))) == (None, None)
    head = await store.write(lambda tx: tx.append(denied("next")))
    assert (head.seq, await chain_problems(store)) == (1, [])


async def test_a_transaction_lost_inside_an_operation_is_lost_for_the_group_and_writes_nothing(
    store: SqliteStore,
) -> None:
    """SQLite may roll back by itself on a full disk; what follows must not commit on its own."""
    await store.write(lambda tx: tx.add_key_fingerprint("k1", "aa"))

    def loses_it_and_goes_on(tx: Tx) -> None:
        with pytest.raises(StoreConflict):
            database_of(tx).run("INSERT OR ROLLBACK INTO key_fingerprints VALUES ('k1', 'bb')")
        with pytest.raises(StoreConflict):
            tx.insert_step(step("stray"))

    async with Gate(store):
        waiting = asyncio.gather(
            store.write(lambda tx: tx.insert_step(step("before"))),
            store.write(loses_it_and_goes_on),
            store.write(lambda tx: tx.insert_step(step("behind"))),
            return_exceptions=True,
        )
    assert [isinstance(result, StoreError) for result in await waiting] == [True, True, True]
    assert await store.read(lambda tx: tx.open_steps()) == []
    assert await store.write(lambda tx: tx.raise_generation()) == 1
    assert await chain_problems(store) == []


async def test_a_full_database_refuses_stays_intact_and_goes_on_when_there_is_room(store: SqliteStore) -> None:
    (pages,) = await store.write(lambda tx: database_of(tx).all("PRAGMA page_count"))
    await store.write(lambda tx: database_of(tx).run(f"PRAGMA max_page_count = {pages[0] + 4}"))
    filling = [store.write(lambda tx: tx.append(denied(data={"fill": "x" * 500}))) for _ in range(200)]
    results = await asyncio.gather(*filling, return_exceptions=True)
    kept = sum(isinstance(result, Head) for result in results)
    assert 0 < kept < 200
    assert {type(result) for result in results} == {Head, StoreFull}
    assert await chain_problems(store) == []
    head = await store.read(lambda tx: tx.journal_head())
    assert head is not None
    assert head.seq == kept
    await store.write(lambda tx: database_of(tx).run("PRAGMA max_page_count = 1000000"))
    assert (await store.write(lambda tx: tx.append(denied()))).seq == kept + 1
    (verdict,) = await store.read(lambda tx: database_of(tx).all("PRAGMA integrity_check"))
    assert verdict[0] == "ok"


@pytest.mark.parametrize("quick", [True, False])
async def test_a_group_that_finds_the_disk_full_makes_room_for_ends(store: SqliteStore, *, quick: bool) -> None:
    """A quota, say, that the file system does not tell of."""
    (pages,) = await store.write(lambda tx: database_of(tx).all("PRAGMA page_count"))
    await store.write(lambda tx: database_of(tx).run(f"PRAGMA max_page_count = {pages[0] + 1}"))
    assert not store.sparing
    with pytest.raises(StoreFull):
        await store.write(lambda tx: tx.append(denied(data={"fill": "x" * 50_000})), quick=quick)
    assert store.sparing


async def test_a_tx_cannot_be_carried_off(store: SqliteStore) -> None:
    """Used later, it would write outside of every savepoint."""
    for tx in (await store.write(lambda tx: tx), await store.read(lambda tx: tx)):
        with pytest.raises(StoreError):
            tx.raise_generation()
        with pytest.raises(StoreError):
            tx.control()


async def test_reading_never_waits_for_writing(store: SqliteStore) -> None:
    async with Gate(store):
        control = await asyncio.wait_for(store.read(lambda tx: tx.control()), 15)
    assert control.policy_generation == 0


def test_a_caller_whose_event_loop_is_gone_harms_nobody(path: Path) -> None:
    store = open_store(path)

    async def leaves_at_once() -> None:
        for _ in range(50):
            store._writer.submit(lambda tx: tx.raise_generation())

    asyncio.run(leaves_at_once())
    assert asyncio.run(store.write(lambda tx: tx.raise_generation())) == 51
    asyncio.run(store.close())


async def test_a_begin_that_fails_by_surprise_is_told_and_the_writer_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(path)

    def surprise(_tx: SqliteTx) -> None:
        raise IndexError

    with monkeypatch.context() as broken:
        broken.setattr(SqliteTx, "start", surprise)
        for quick in (True, False):
            with pytest.raises(StoreError, match="writer: IndexError"):
                await asyncio.wait_for(store.write(lambda tx: tx.raise_generation(), quick=quick), 10)
    assert await asyncio.wait_for(store.write(lambda tx: tx.raise_generation(), quick=True), 10) == 1
    await asyncio.wait_for(store.close(), 10)


async def test_a_quick_read_while_the_store_closes_is_answered_or_refused(path: Path) -> None:
    store = open_store(path)
    async with Gate(store):
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0.05)  # it waits for the gate
        with pytest.raises(StoreError):
            await store.read(lambda tx: tx.control(), quick=True)
    await closing
    with pytest.raises(StoreError):
        await store.read(lambda tx: tx.control(), quick=True)


async def test_each_event_loop_is_answered_for_itself(store: SqliteStore) -> None:
    """Another's would set its futures without waking it."""
    before = store.commits
    async with Gate(store):
        here = asyncio.ensure_future(generation(store))
        there = asyncio.ensure_future(asyncio.to_thread(lambda: asyncio.run(generation(store))))
        while len(store._writer._waiting) < 2:  # noqa: ASYNC110 - of another thread
            await asyncio.sleep(0.001)
    assert sorted(await asyncio.gather(here, there)) == [1, 2]
    assert store.commits - before == 1 + 2  # the gate's own


async def test_a_turn_that_comes_after_closing_takes_nothing(path: Path) -> None:
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: problems.append(context))
    store = open_store(path)
    waiting = store._writer.submit(lambda tx: tx.raise_generation(), quick=True)
    store._writer.close()  # in the same round of the loop
    assert await waiting == 1
    await asyncio.sleep(0)
    assert problems == []
    await store.close()


@pytest.mark.parametrize("waits_already", [True, False])
def test_what_a_closed_loop_left_in_the_queue_goes_along_with_another_loops(path: Path, *, waits_already: bool) -> None:
    store, reached, go_on = open_store(path), threading.Event(), threading.Event()

    def holds(tx: Tx) -> None:
        reached.set()
        assert go_on.wait(10)

    async def leaves() -> None:
        held = store._writer.submit(holds)
        assert await asyncio.to_thread(reached.wait, 10)
        store._writer.submit(lambda tx: tx.raise_generation(), quick=True)
        if not waits_already:
            go_on.set()
            await held

    async def comes() -> int:
        asking = asyncio.ensure_future(generation(store))
        await asyncio.sleep(0)  # it is queued
        go_on.set()
        return await asking

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leaves())
    loop.close()
    assert asyncio.run(comes()) == 2
    asyncio.run(store.close())


def test_a_turn_that_a_closed_loop_did_not_take_is_taken_by_the_next(path: Path) -> None:
    store = open_store(path)
    loop = asyncio.new_event_loop()

    async def leaves() -> None:
        asyncio.get_running_loop().stop()  # at the end of this round, before what it calls soon
        store._writer.submit(lambda tx: tx.raise_generation(), quick=True)

    leaving = loop.create_task(leaves())
    loop.run_forever()
    assert leaving.done()
    loop.close()
    assert asyncio.run(generation(store)) == 2
    asyncio.run(store.close())


class _Refusal(Exception):
    """Of an operation's own."""


async def test_a_refusal_is_gone_with_its_caller(store: SqliteStore) -> None:
    """Cycles are looked for seldom, and a storm of refusals must not fill the memory until then."""
    raised: list[weakref.ref[_Refusal]] = []

    def refuses(tx: Tx) -> None:
        raised.append(weakref.ref(error := _Refusal()))
        try:
            raise error
        finally:
            del error

    gc.disable()
    try:
        for quick in (True, False):
            with contextlib.suppress(_Refusal):
                await store.write(refuses, quick=quick)
        await store.write(lambda tx: None)  # the writer has let go of the group before
        assert [one() for one in raised] == [None, None]
    finally:
        gc.enable()
