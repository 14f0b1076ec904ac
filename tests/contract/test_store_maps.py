"""The scope map that every store keeps: whole, or the one before."""

from __future__ import annotations

from operator import methodcaller
from typing import Any, Never

import pytest

from broker.errors import StoreError
from broker.store.base import KeptMap, Store, Tx
from tests.fakes.domain import NOW, after


def kept(**changes: Any) -> KeptMap:
    fields: dict[str, Any] = {
        "root": "scopes.yaml",
        "contents": {"scopes.yaml": b"version: 1\n", "../base.yaml": b"\x00\xff"},
        "digest": "d" * 64,
        "generation": 3,
        "loaded_at": NOW,
        "serial": 7,
        "manifest_digest": "7",
        "signers": ("alice", "bob"),
        "manifest": b"{}",
    }
    return KeptMap(**(fields | changes))


async def test_a_new_database_keeps_none(store: Store) -> None:
    assert await store.read(lambda tx: tx.kept_map()) is None
    assert (await store.read(lambda tx: tx.control())).map_serial == 0


async def test_a_map_comes_back_as_it_was(store: Store) -> None:
    await store.write(lambda tx: tx.keep_map(kept()))
    assert await store.read(lambda tx: tx.kept_map()) == kept()


async def test_another_map_takes_its_place_with_all_of_its_files(store: Store) -> None:
    await store.write(lambda tx: tx.keep_map(kept()))
    other = kept(
        contents={"root.yaml": b"other"}, root="root.yaml", serial=8, loaded_at=after(5), signers=(), manifest=b""
    )
    await store.write(lambda tx: tx.keep_map(other))
    assert await store.read(lambda tx: tx.kept_map()) == other


async def test_the_highest_serial_outlives_an_unsigned_map(store: Store) -> None:
    for serial in (7, 0, 3):
        signed = kept(serial=serial, manifest_digest=str(serial))
        await store.write(methodcaller("keep_map", signed))
        control = await store.read(lambda tx: tx.control())
        assert (control.map_serial, control.map_manifest) == (7, "7")


async def test_what_is_undone_leaves_the_map_before(store: Store) -> None:
    await store.write(lambda tx: tx.keep_map(kept()))

    def fails(tx: Tx) -> Never:
        tx.keep_map(kept(contents={"scopes.yaml": b"half"}, serial=9))
        raise StoreError("the disk is full")

    with pytest.raises(StoreError):
        await store.write(fails)
    assert await store.read(lambda tx: tx.kept_map()) == kept()
    assert (await store.read(lambda tx: tx.control())).map_serial == 7


async def test_a_reader_keeps_no_map(store: Store) -> None:
    with pytest.raises(StoreError):
        await store.read(lambda tx: tx.keep_map(kept()))
