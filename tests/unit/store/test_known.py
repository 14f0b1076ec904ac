"""What the writing connection remembers of its rows is never stale, and quick operations hold nobody up."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.clock import Moment
from broker.errors import StoreError
from broker.model import Bind, EndReason, StepState
from broker.store.base import KeptMap, Tx
from broker.store.guard import GuardState
from broker.store.halts import EVERYTHING, Freeze
from broker.store.sqlite import SqliteStore, open_store
from broker.store.sqlite.known import MISSING, MOST, Kind, Known
from broker.store.sqlite.tx import SqliteTx
from broker.store.sqlite.tx.base import QUICK, QUICK_READ
from tests.fakes.domain import CERTIFICATE, NOW, after, denied, guard_row, lease, step

FREEZE = Freeze(id=EVERYTHING, by="ann", reason="drill", at=NOW)


def test_nothing_of_a_lost_group_comes_back_with_an_undone_operation() -> None:
    known = Known()
    known.begin(1)
    known.owe(Kind.GUARD_ROW, "k", "lost")
    assert known.owed(Kind.GUARD_ROW) == ["lost"]  # and its writing failed
    known.owe(Kind.GUARD_ROW, "other", "not yet written")
    known.forget_all()
    known.undo()
    assert known.peek(Kind.GUARD_ROW, "k") is MISSING
    assert known.owed(Kind.GUARD_ROW) == []


def test_it_begins_anew_before_it_grows_too_large() -> None:
    known = Known()
    known.begin(1)
    for number in range(MOST + 1):
        known.put(Kind.STEP, str(number), number)
    known.keep()
    assert known.begin(1)
    assert known.peek(Kind.STEP, "0") is MISSING
    assert not known.begin(1)


def test_what_is_dropped_or_forgotten_in_an_undone_operation_is_as_before() -> None:
    known = Known()
    known.begin(1)
    known.owe(Kind.GUARD_ROW, "k", "owed")
    known.put(Kind.STEP, "s", "step")
    known.keep()
    known.drop(Kind.GUARD_ROW, "k")
    assert known.owed(Kind.GUARD_ROW) == []
    known.forget(Kind.STEP)
    known.put(Kind.STEP, "s", "another")
    known.undo()
    assert known.peek(Kind.STEP, "s") == "step"
    assert known.owed(Kind.GUARD_ROW) == ["owed"]


def another_process(path: Path) -> sqlite3.Connection:
    """An operator's shell."""
    return sqlite3.connect(path, isolation_level=None, timeout=5)


async def sees_a_strangers_freeze(store: SqliteStore, path: Path) -> bool:
    assert await store.write(lambda tx: (list(tx.freezes()), tx.control().frozen), quick=True) == ([], False)
    shell = another_process(path)
    shell.execute("INSERT INTO freezes VALUES ('all', 'root', 'by hand', 0, '', '', '', '', '')")
    shell.close()
    freezes, frozen = await store.write(lambda tx: (list(tx.freezes()), tx.control().frozen), quick=True)
    return len(freezes) == 1 and frozen


async def test_what_another_process_has_written_is_seen(store: SqliteStore, path: Path) -> None:
    assert await sees_a_strangers_freeze(store, path)


async def test_a_memory_that_trusts_itself_would_not_see_it(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Known, "begin", lambda _self, _version: False)
    assert not await sees_a_strangers_freeze(store, path)


async def test_what_an_operation_learned_is_forgotten_with_it(store: SqliteStore) -> None:
    await store.write(lambda tx: tx.insert_step(step()), quick=True)
    await store.write(lambda tx: tx.put_guard_row(guard_row(spent=1)), quick=True)

    def mishap(tx: Tx) -> None:
        tx.put_guard_row(guard_row(spent=2))
        tx.put_guard_row(guard_row(key="new"))
        tx.add_freeze(FREEZE)
        tx.raise_generation()
        tx.insert_step(step("gone", handle_hash=b"gone"))
        assert tx.step("gone") is not None
        raise KeyError("mishap")

    def look(tx: Tx) -> tuple[object, ...]:
        row = tx.guard_row(guard_row().key)
        return (
            row and row.spent,
            tx.guard_row("new"),
            list(tx.freezes()),
            tx.control().policy_generation,
            tx.step("gone"),
        )

    told = await asyncio.gather(store.write(mishap, quick=True), store.write(look, quick=True), return_exceptions=True)
    assert isinstance(told[0], KeyError)
    assert told[1] == (1, None, [], 0, None)
    assert await store.read(look) == (1, None, [], 0, None)


async def test_a_group_that_is_lost_is_forgotten_whole(store: SqliteStore) -> None:
    def breaks_the_commit(tx: Tx) -> None:
        cast(SqliteTx, tx)._db.run("PRAGMA defer_foreign_keys = ON")
        tx.insert_lease(lease(step_id="nobody"))

    told = await asyncio.gather(
        store.write(lambda tx: tx.add_freeze(FREEZE), quick=True),
        store.write(lambda tx: tx.put_guard_row(guard_row()), quick=True),
        store.write(breaks_the_commit, quick=True),
        return_exceptions=True,
    )
    assert [type(one) for one in told] == [StoreError] * 3
    assert await store.write(lambda tx: (list(tx.freezes()), tx.guard_row(guard_row().key)), quick=True) == ([], None)
    assert (await store.write(lambda tx: tx.append(denied()), quick=True)).seq == 1


async def test_a_guard_row_is_written_once_a_group_and_found_by_whoever_looks(store: SqliteStore) -> None:
    def spend(spent: int) -> Callable[[Tx], list[int]]:
        def operation(tx: Tx) -> list[int]:
            tx.put_guard_row(guard_row(spent=spent))
            return [row.spent for row in tx.guard_page(after="", limit=9, open_too=True)]

        return operation

    assert await asyncio.gather(*(store.write(spend(n), quick=True) for n in range(5))) == [[n] for n in range(5)]
    assert [row.spent for row in await store.read(lambda tx: tx.guard_page(after="", limit=9, open_too=True))] == [4]


async def test_a_quick_operation_that_turns_out_long_runs_on_the_thread_and_once(store: SqliteStore) -> None:
    ran: list[str] = []

    def operation(tx: Tx) -> int:
        ran.append(threading.current_thread().name)
        generation = tx.raise_generation()
        tx.must_be_quick(QUICK + 1)
        return generation

    assert await store.write(operation, quick=True) == 1
    assert ran == [threading.current_thread().name, "store-writer"]


async def test_what_control_says_of_the_map_is_never_an_older_ones(store: SqliteStore) -> None:
    def keep(tx: Tx) -> list[int]:
        before = tx.control().map_serial
        tx.keep_map(KeptMap(root="m", contents={}, digest="d", generation=1, loaded_at=NOW, serial=before + 1))
        return [before, tx.control().map_serial]

    assert [await store.write(keep, quick=True) for _ in range(2)] == [[0, 1], [1, 2]]


async def test_a_step_is_known_as_it_is_after_each_change(store: SqliteStore) -> None:
    def change(tx: Tx) -> list[object]:
        tx.insert_step(step(started_at=None))
        seen: list[object] = [tx.start_step("step-1", NOW, certificate=CERTIFICATE, bind=Bind.KEY), tx.step("step-1")]
        tx.beat("step-1", after(9))
        seen.append(tx.step("step-1"))
        tx.steps_go_on_in(Moment(wall=NOW, boot=1.0, boot_id="another"))
        seen.append(tx.step("step-1"))
        return [*seen, tx.end_step("step-1", after(10), EndReason.SILENT), tx.step("step-1")]

    seen = await store.write(change, quick=True)
    begun = step(started_at=NOW, certificate=CERTIFICATE, bind=Bind.KEY)
    beaten = replace(begun, last_heartbeat_at=after(9))
    moved = replace(beaten, boot_id="another", deadline_boot=3601.0)
    ended = replace(moved, state=StepState.ENDED, ended_at=after(10), end_reason=EndReason.SILENT)
    assert seen == [True, begun, beaten, moved, True, ended]


async def test_refs_are_merged_with_the_newest(store: SqliteStore) -> None:
    def change(tx: Tx) -> list[object]:
        tx.insert_step(step())
        tx.insert_lease(lease(refs={"made": 1}))
        tx.note("lease-1", epoch=1, refs={"noted": 1})
        tx.note("lease-1", epoch=1, refs={"again": 1})
        tx.insert_lease(lease("lease-2", refs={"made": 1}))
        tx.activate("lease-2", epoch=1, refs={"active": 1}, at=NOW)
        tx.to_revoking("lease-2", at=NOW, reason=EndReason.SILENT, refs={"asked": 1})
        return [row and sorted(row.refs) for row in map(tx.lease, ("lease-1", "lease-2"))]

    assert await store.write(change, quick=True) == [["again", "made", "noted"], ["active", "asked", "made"]]


async def test_a_guard_row_that_is_owed_is_counted(store: SqliteStore) -> None:
    held = guard_row(state=GuardState.HELD)
    put = store.write(lambda tx: tx.put_guard_row(held), quick=True)
    assert (await asyncio.gather(put, store.write(lambda tx: tx.guard_counts(), quick=True)))[1] == {GuardState.HELD: 1}


async def test_a_row_that_was_not_there_is_not_owed_once_its_writer_is_undone(store: SqliteStore) -> None:
    """Written as None, it would cost the whole group."""

    def mishap(tx: Tx) -> None:
        tx.put_guard_row(guard_row())
        raise KeyError("mishap")

    told = await asyncio.gather(
        store.write(lambda tx: tx.guard_row(guard_row().key), quick=True),
        store.write(mishap, quick=True),
        store.write(lambda tx: tx.raise_generation(), quick=True),
        return_exceptions=True,
    )
    assert (told[0], type(told[1]), told[2]) == (None, KeyError, 1)


async def test_what_one_operation_owes_is_written_although_another_that_wrote_it_is_undone(store: SqliteStore) -> None:
    def looks_and_fails(tx: Tx) -> None:
        assert [row.spent for row in tx.guard_page(after="", limit=9, open_too=True)] == [1]
        raise KeyError("mishap")

    await asyncio.gather(
        store.write(lambda tx: tx.put_guard_row(guard_row(spent=1)), quick=True),
        store.write(looks_and_fails, quick=True),
        return_exceptions=True,
    )
    row = await store.read(lambda tx: tx.guard_row(guard_row().key))
    assert row is not None
    assert row.spent == 1


async def test_a_guard_row_that_cannot_be_written_is_its_own_operations_alone(store: SqliteStore) -> None:
    naive = guard_row(locked_at=(NOW.replace(tzinfo=None),))
    told = await asyncio.gather(
        store.write(lambda tx: tx.put_guard_row(naive), quick=True),
        store.write(lambda tx: tx.raise_generation(), quick=True),
        return_exceptions=True,
    )
    assert (type(told[0]), told[1]) == (TypeError, 1)


async def runs_on(store: SqliteStore, work: Callable[[Tx], object]) -> list[str]:
    """Threads on which a quick operation was run."""
    ran: list[str] = []

    def operation(tx: Tx) -> None:
        ran.append(threading.current_thread().name)
        work(tx)

    await store.write(operation, quick=True)
    return ran


async def test_many_small_changes_of_one_operation_are_as_long_as_one_large(store: SqliteStore) -> None:
    here = threading.current_thread().name

    def thrice(tx: Tx) -> None:
        for _ in range(3):
            tx.must_be_quick(QUICK // 2)

    assert await runs_on(store, thrice) == [here, "store-writer"]
    assert await asyncio.gather(*(runs_on(store, lambda tx: tx.must_be_quick(QUICK)) for _ in range(3))) == [[here]] * 3


async def test_a_step_with_many_leases_is_not_read_on_the_event_loop(store: SqliteStore) -> None:
    def fill(tx: Tx) -> None:
        tx.insert_step(step())
        for number in range(QUICK_READ):
            tx.insert_lease(lease(f"lease-{number}"))

    await store.write(fill)
    here = threading.current_thread().name
    assert await runs_on(store, lambda tx: tx.leases_of("step-1")) == [here]
    await store.write(lambda tx: tx.insert_lease(lease("one-more")))
    assert await runs_on(store, lambda tx: tx.leases_of("step-1")) == [here, "store-writer"]
    assert len(await store.write(lambda tx: tx.leases_of("step-1"), quick=True)) == QUICK_READ + 1
    assert await runs_on(store, lambda tx: tx.open_steps_of("etl")) == [here]


async def test_many_steps_of_a_workflow_are_not_read_on_the_event_loop(store: SqliteStore) -> None:
    def fill(tx: Tx) -> None:
        for number in range(QUICK_READ + 1):
            tx.insert_step(step(f"step-{number}"))

    await store.write(fill)
    assert len(await runs_on(store, lambda tx: tx.open_steps_of("etl"))) == 2
    assert len(await store.write(lambda tx: tx.open_steps_of("etl"), quick=True)) == QUICK_READ + 1


def too_long(tx: Tx) -> int:
    generation = tx.raise_generation()
    tx.must_be_quick(QUICK + 1)
    return generation


async def test_a_cancelled_caller_does_not_stop_an_operation_that_turns_out_long(store: SqliteStore) -> None:
    waiting = asyncio.ensure_future(store.write(too_long, quick=True))
    await asyncio.sleep(0)  # it is queued
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await store.write(lambda tx: None)
    assert (await store.read(lambda tx: tx.control())).policy_generation == 1


async def test_what_turns_out_long_keeps_its_place_before_those_of_later_groups(store: SqliteStore) -> None:
    later = store.write(lambda tx: tx.raise_generation())
    assert [*await asyncio.gather(store.write(too_long, quick=True), later)] == [1, 2]


async def test_closing_finishes_what_turns_out_long(path: Path) -> None:
    store = open_store(path)
    waiting = asyncio.gather(*(store.write(too_long, quick=True) for _ in range(3)))
    await asyncio.sleep(0)  # they are queued
    await store.close()
    assert await waiting == [1, 2, 3]


async def test_who_waits_for_another_process_does_not_hold_up_the_loop(store: SqliteStore, path: Path) -> None:
    shell = another_process(path)
    shell.execute("BEGIN IMMEDIATE")
    waiting = asyncio.ensure_future(store.write(lambda tx: tx.raise_generation(), quick=True))
    for _ in range(20):  # rounds of the loop, each with a quick read
        await asyncio.sleep(0.005)
        assert (await store.read(lambda tx: tx.control(), quick=True)).policy_generation == 0
    assert not waiting.done()
    shell.execute("ROLLBACK")
    shell.close()
    assert await asyncio.wait_for(waiting, 10) == 1


async def test_quick_and_other_operations_keep_their_order(store: SqliteStore) -> None:
    told = await asyncio.gather(
        *(store.write(lambda tx: tx.raise_generation(), quick=bool(number % 3)) for number in range(30))
    )
    assert told == list(range(1, 31))


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 1)),
        st.tuples(st.just("back"), st.integers(0, 20)),
        st.tuples(st.just("ask"), st.integers(1, 4)),
        st.tuples(st.just("pass"), st.integers(1, 900)),
        st.tuples(st.just("earlier"), st.integers(1, 4)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(events=EVENTS)
@example(
    events=[("add", 0), ("pass", 900), ("pass", 900), ("ask", 1), ("earlier", 1)]
)  # a count says nothing of before
def test_the_window_is_told_as_a_fresh_look_at_the_charges_tells_it(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, int]]
) -> None:
    """The count that is remembered is never lower than what is there, so that no limit is passed."""

    async def play() -> None:
        path = tmp_path_factory.mktemp("window") / "x.db"
        store, at, made = open_store(path), 0, 0
        try:
            for what, number in events:
                if what == "pass":
                    at += number
                elif what == "add":
                    charge = {"lease_id": f"l{made}", "key": "k", "hour_key": f"h{number}", "at": after(at)}
                    await store.write(lambda tx, charge=charge: tx.add_charge(**charge, shared="all"), quick=True)  # type: ignore[misc]
                    made += 1
                elif what == "back":
                    await store.write(lambda tx, name=f"l{number}": tx.return_charge(name), quick=True)  # type: ignore[misc]
                else:
                    since = after(at) - timedelta(seconds=3600 if what == "earlier" else 1200)

                    def ask(tx: Tx, n: int = number, since: object = since) -> object:
                        own = tx.nth_charge(n, hour_key="h0", since=since)  # type: ignore[arg-type]
                        return own, tx.nth_shared(n, shared="all", since=since)  # type: ignore[arg-type]

                    assert await store.write(ask, quick=True) == await store.read(ask)
        finally:
            await store.close()

    asyncio.run(play())
