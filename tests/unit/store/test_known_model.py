"""Any run of operations, quick and others, refused, lost and beside a stranger, is as over a store without a memory."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.clock import Moment
from broker.errors import StoreConflict, StoreError
from broker.model import Bind, EndReason
from broker.store.base import KeptMap, Tx
from broker.store.guard import GuardClock
from broker.store.halts import EVERYTHING, Freeze
from broker.store.sqlite import SqliteStore, open_store
from broker.store.sqlite.tx import SqliteTx
from broker.store.sqlite.tx.base import QUICK
from tests.fakes.domain import CERTIFICATE, NOW, after, denied, guard_row, lease, step
from tests.fakes.memory_store import MemoryStore
from tests.support.examples import examples

Part = Callable[[Tx], object]
HOUR = timedelta(hours=1)
KEYS = ("a", "b")


def handle(key: str) -> bytes:
    return step(key).handle_hash


def charge(tx: Tx, name: str, key: str, at: int) -> None:
    tx.add_charge(lease_id=name, key="k", hour_key=key, at=after(at), shared="all")


def kept_map(key: str, serial: int) -> KeptMap:
    return KeptMap(
        root="map", contents={key: b"x"}, digest=key, generation=1, loaded_at=NOW, serial=serial, manifest_digest=key
    )


def clock(at: int) -> GuardClock:
    return GuardClock(at=after(at), wall=NOW, boot=1.0, boot_id="boot")


PARTS: dict[str, Callable[[str, int], Part]] = {
    "step": lambda key, n: lambda tx: tx.step(key),
    "by handle": lambda key, n: lambda tx: tx.step_by_handle(handle(key)),
    "insert step": lambda key, n: lambda tx: tx.insert_step(step(key, started_at=None, request_id=f"{key}{n}")),
    "beat": lambda key, n: lambda tx: tx.beat(key, after(n)),
    "start": lambda key, n: lambda tx: tx.start_step(key, after(n), certificate=CERTIFICATE, bind=Bind.KEY),
    "end": lambda key, n: lambda tx: tx.end_step(key, after(n), EndReason.SILENT),
    "boot": lambda key, n: lambda tx: tx.steps_go_on_in(Moment(wall=NOW, boot=float(n), boot_id=key)),
    "control": lambda key, n: lambda tx: replace(tx.control(), installation=""),
    "generation": lambda key, n: lambda tx: tx.raise_generation(),
    "anchored": lambda key, n: lambda tx: tx.set_anchored(),
    "keep map": lambda key, n: lambda tx: tx.keep_map(kept_map(key, n)),
    "fingerprint": lambda key, n: lambda tx: tx.add_key_fingerprint(key, str(n % 2)),
    "no fingerprint": lambda key, n: lambda tx: tx.forget_key_fingerprint(key),
    "epoch": lambda key, n: lambda tx: tx.epoch(),
    "renew": lambda key, n: lambda tx: tx.renew_epoch(1, float(n)),
    "new epoch": lambda key, n: lambda tx: tx.start_epoch(replica=key, boot_id="boot", expires_boot=1.0, at=NOW),
    "freezes": lambda key, n: lambda tx: (list(tx.freezes()), tx.control().frozen),
    "freeze": lambda key, n: lambda tx: tx.add_freeze(Freeze(id=EVERYTHING, by="ann", reason=key, at=NOW)),
    "unfreeze": lambda key, n: lambda tx: tx.remove_freeze(EVERYTHING),
    "guard row": lambda key, n: lambda tx: tx.guard_row(key),
    "put guard row": lambda key, n: lambda tx: tx.put_guard_row(guard_row(key, spent=n)),
    "guard page": lambda key, n: lambda tx: tx.guard_page(after="", limit=9, open_too=True),
    "guard clock": lambda key, n: lambda tx: tx.guard_clock(),
    "set guard clock": lambda key, n: lambda tx: tx.set_guard_clock(clock(n)),
    "charge": lambda key, n: lambda tx: charge(tx, f"l{n}", key, n),
    "charge back": lambda key, n: lambda tx: tx.return_charge(f"l{n}"),
    "nth": lambda key, n: lambda tx: tx.nth_charge(n % 3 + 1, hour_key=key, since=after(n % 2) - HOUR),
    "nth shared": lambda key, n: lambda tx: tx.nth_shared(n % 3 + 1, shared="all", since=after(n)),
    "lease": lambda key, n: lambda tx: tx.lease(key),
    "insert lease": lambda key, n: lambda tx: tx.insert_lease(lease(key, step_id="base", refs={"n": n})),
    "note": lambda key, n: lambda tx: tx.note(key, epoch=1, refs={f"n{n % 2}": n}),
    "activate": lambda key, n: lambda tx: tx.activate(key, epoch=1, refs={f"n{n % 3}": n}, at=NOW),
    "defer": lambda key, n: lambda tx: tx.defer(key, next_try_at=NOW, problem="", refs={"again": n}),
    "revoke": lambda key, n: lambda tx: tx.to_revoking(key, at=NOW, reason=EndReason.SILENT, refs={"asked": n}),
    "append": lambda key, n: lambda tx: tx.append(denied(data={"n": n})).seq,
}


@dataclass(frozen=True)
class Asked:
    """One operation: its parts in order, and what becomes of it."""

    parts: tuple[tuple[str, str, int], ...]
    quick: bool
    fails: bool  # in the end
    long: bool  # in the end, where it is quick

    def __call__(self, tx: Tx) -> list[object]:
        seen: list[object] = []
        for what, key, number in self.parts:
            try:
                seen.append(PARTS[what](key, number)(tx))
            except StoreConflict:
                seen.append("conflict")
        if self.long:
            tx.must_be_quick(QUICK + 1)
        if self.fails:
            raise KeyError("on purpose")
        return seen


PART = st.tuples(st.sampled_from(sorted(PARTS)), st.sampled_from(KEYS), st.integers(0, 5))
ASKED = st.builds(
    Asked,
    parts=st.lists(PART, min_size=1, max_size=5).map(tuple),
    quick=st.booleans(),
    fails=st.integers(0, 3).map(lambda one: one == 0),
    long=st.integers(0, 7).map(lambda one: one == 0),
)
BATCH = st.tuples(
    st.sampled_from(["fine", "fine", "fine", "lost", "stranger"]), st.lists(ASKED, min_size=1, max_size=5)
)


def everything(tx: Tx) -> list[object]:
    reads = ("step", "by handle", "control", "epoch", "freezes", "guard row", "guard clock", "lease")
    seen = [PARTS[what](key, 0)(tx) for what in reads for key in KEYS]
    seen += [tx.nth_charge(n, hour_key=key, since=NOW - HOUR) for n in (1, 2, 3) for key in KEYS]
    return [*seen, *(tx.nth_shared(n, shared="all", since=NOW - HOUR) for n in (1, 2, 3))]


def breaks_the_commit(tx: Tx) -> None:
    cast(SqliteTx, tx)._db.run("PRAGMA defer_foreign_keys = ON")
    tx.insert_lease(lease("stray", step_id="nobody"))


def seed(tx: Tx) -> None:
    tx.start_epoch(replica="a", boot_id="boot", expires_boot=15.0, at=NOW)
    tx.insert_step(step("base"))


def stranger(path: Path) -> None:
    """Another process, which knows nothing of what is remembered here."""
    shell = sqlite3.connect(path, isolation_level=None, timeout=5)
    shell.execute("UPDATE control SET policy_generation = policy_generation + 1")
    shell.execute("UPDATE guard SET spent = 77")
    shell.execute("DELETE FROM freezes")
    shell.execute("UPDATE steps SET last_heartbeat_at = last_heartbeat_at + 9000000 WHERE id IN ('a', 'b')")
    shell.close()


def as_the_stranger(tx: Tx) -> None:
    state = cast(Any, tx)._state
    tx.raise_generation()
    for row in tx.guard_page(after="", limit=99, open_too=True):
        tx.put_guard_row(guard_row(row.key, spent=77))
    tx.remove_freeze(EVERYTHING)
    for key in KEYS:
        if key in state.steps:
            beaten = state.steps[key].last_heartbeat_at + timedelta(seconds=9)
            state.steps[key] = replace(state.steps[key], last_heartbeat_at=beaten)


async def told(store: SqliteStore | MemoryStore, asked: Asked) -> object:
    try:
        return await store.write(asked, quick=asked.quick)
    except (KeyError, StoreError) as error:
        return type(error)


async def play(path: Path, batches: list[tuple[str, list[Asked]]]) -> None:
    store, plain = open_store(path), MemoryStore()
    try:
        await store.write(seed)
        await plain.write(seed)
        for fate, batch in batches:
            if fate == "lost":
                quick = [Asked(one.parts, quick=True, fails=one.fails, long=False) for one in batch]
                lost = store.write(breaks_the_commit, quick=True)
                found = await asyncio.gather(*(told(store, one) for one in quick), lost, return_exceptions=True)
                assert {KeyError if one is KeyError else StoreError for one in found[:-1]} <= {KeyError, StoreError}
                assert isinstance(found[-1], StoreError)
            else:
                # What turns out long is run after the others of its group.
                straight = [one for one in batch if not (one.quick and one.long)]
                assert await asyncio.gather(*(told(store, one) for one in straight)) == [
                    await told(plain, one) for one in straight
                ]
                for one in batch:
                    if one not in straight:
                        assert await told(store, one) == await told(plain, one)
            if fate == "stranger":
                stranger(path)
                await plain.write(as_the_stranger)
            expected = await plain.read(everything)
            assert await store.read(everything) == expected
            assert await store.write(everything, quick=True) == expected
    finally:
        await store.close()


@settings(max_examples=examples(40, long=3000), deadline=None)
@given(batches=st.lists(BATCH, max_size=6))
def test_the_store_answers_as_one_without_a_memory(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[str, list[Asked]]]
) -> None:
    asyncio.run(play(tmp_path_factory.mktemp("model") / "x.db", batches))
