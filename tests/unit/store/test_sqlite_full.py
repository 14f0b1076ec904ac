"""A disk that is full: what begins something is refused, what ends something is written."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.errors import StoreFull
from broker.journal.chain import verify
from broker.model import EndReason, Evidence, LeaseState
from broker.store.base import Tx, tail
from broker.store.sqlite import SqliteStore, open_store
from broker.store.sqlite.reserve import SIZE
from tests.fakes.domain import NOW, denied, lease, step

DISK = 4 * SIZE
LEASES = 1000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take every byte that is left."""
    path = disk / "others-fill-it"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return path


def opened(disk: Path) -> SqliteStore:
    return open_store(disk / "broker.db")


async def with_leases(store: SqliteStore) -> list[str]:
    """Many ACTIVE leases."""
    await store.write(lambda tx: tx.start_epoch(replica="a", boot_id="b", expires_boot=1, at=NOW))
    await store.write(lambda tx: tx.insert_step(step()))
    names = [f"lease-{number}" for number in range(LEASES)]

    def operation(tx: Tx, name: str) -> None:
        tx.insert_lease(lease(name))
        tx.activate(name, epoch=1, refs={}, at=NOW)

    await asyncio.gather(*(store.write(lambda tx, name=name: operation(tx, name)) for name in names))  # type: ignore[misc]
    return names


async def refused_when_full(store: SqliteStore, *, quick: bool = False) -> int:
    """How many new leases still found room."""
    for number in range(10_000):
        row = replace(lease(f"late-{number}"), request_id=f"late-{number}")
        try:
            await store.write(lambda tx, row=row: (tx.insert_lease(row), tx.append(denied())), quick=quick)  # type: ignore[misc]
        except StoreFull:
            return number
    raise AssertionError("was never refused")


def end(tx: Tx, name: str) -> None:
    assert tx.to_revoking(name, at=NOW, reason=EndReason.STEP_ENDED)
    assert tx.to_ended(name, LeaseState.REVOKED, evidence=Evidence.SEEN_DEAD, at=NOW)


def integrity(disk: Path) -> str:
    with contextlib.closing(sqlite3.connect(disk / "broker.db")) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("quick", [True, False])
async def test_on_a_full_disk_nothing_begins_and_everything_ends(disk: Path, *, quick: bool) -> None:
    store = opened(disk)
    names = await with_leases(store)
    assert not store.sparing
    filling = fill(disk)
    await refused_when_full(store, quick=quick)
    assert store.sparing
    for operation in (
        lambda tx: tx.insert_step(step("another")),
        lambda tx: tx.insert_lease(lease("another")),
        lambda tx: tx.append(denied()),
    ):
        with pytest.raises(StoreFull):
            await store.write(operation, quick=quick)
    for name in names:  # one commit each
        await store.write(lambda tx, name=name: end(tx, name), quick=quick)
    ended = await store.read(lambda tx: {row.id for row in tx.leases_in(LeaseState.REVOKED)})
    assert ended == set(names)
    assert await store.read(lambda tx: verify(tail(tx))) == []
    gone(filling)
    await store.write(lambda tx: tx.insert_step(step("room again")), quick=quick)
    assert not store.sparing
    await store.close()
    assert integrity(disk) == "ok"


async def test_already_the_first_end_on_a_full_disk_is_written(disk: Path) -> None:
    """The room is made before the commit that needs it: nobody has to ask twice."""
    store = opened(disk)
    names = await with_leases(store)
    fill(disk)

    def end_all(tx: Tx) -> None:
        for name in names:
            end(tx, name)

    await store.write(end_all)
    assert store.sparing
    await store.close()
    assert integrity(disk) == "ok"


async def test_a_daemon_starts_on_a_full_disk_and_ends_what_it_left(disk: Path) -> None:
    store = opened(disk)
    names = await with_leases(store)
    await store.close()
    fill(disk)
    again = opened(disk)
    await again.write(lambda tx: tx.start_epoch(replica="a", boot_id="b", expires_boot=1, at=NOW))
    with pytest.raises(StoreFull):
        await again.write(lambda tx: tx.insert_lease(lease("another")))
    for name in names:
        await again.write(lambda tx, name=name: end(tx, name))  # type: ignore[misc]
    await again.close()
    assert integrity(disk) == "ok"


async def test_the_reserve_is_made_once_private_and_no_larger_than_said(disk: Path) -> None:
    for _ in range(2):
        store = opened(disk)
        assert not store.sparing
        await store.close()
        held = os.stat(disk / "broker.db-reserve")  # noqa: PTH116 - of a file, in a test
        assert (held.st_size, held.st_blocks * 512, held.st_mode & 0o777) == (SIZE, SIZE, 0o600)


async def test_without_room_for_a_reserve_nothing_begins(disk: Path) -> None:
    fill(disk).open("r+b").truncate(DISK - 3 * SIZE // 2)
    store = opened(disk)
    assert store.sparing
    await store.write(lambda tx: tx.start_epoch(replica="a", boot_id="b", expires_boot=1, at=NOW))
    with pytest.raises(StoreFull):
        await store.write(lambda tx: tx.insert_step(step()))
    await store.close()
