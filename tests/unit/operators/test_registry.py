"""The file in force: the last good one stays, and changes and refusals are journalled once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.errors import StoreError
from broker.journal.records import Kind
from broker.leases.epoch import EpochLost
from broker.operators.file import NOBODY
from broker.operators.registry import Registry, operators_source
from broker.operators.sealing import generate_key, parse_key
from broker.secret import Secret
from broker.store.base import Tx
from tests.fakes.clock import FakeClock
from tests.fakes.domain import NOW
from tests.fakes.memory_store import MemoryStore
from tests.unit.operators.people import SECRET

ANN = "  ann: {ids: ['spiffe://test.acme/o/ann'], roles: [approver]}\n"
BOB = "  bob: {ids: ['spiffe://test.acme/o/bob'], roles: [responder]}\n"
BAD = "  bob: {ids: ['spiffe://test.acme/o/bob'], roles: [boss]}\n"
ID = "spiffe://test.acme/o/"
TOLD = (Kind.OPERATORS_LOADED, Kind.OPERATORS_REFUSED)


class QuickClock(FakeClock):
    """Whoever sleeps lets time pass."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(0)


class House:
    """A file, a registry over it, and what the journal has of it."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o700)
        self.path, self.key = folder / "operators.yaml", folder / "factors.key"
        generate_key(self.key)
        self.store, self.clock = MemoryStore(), QuickClock()
        self.fenced = False

    def says(self, *entries: str) -> None:
        text = "version: 1\noperators:\n" + "".join(entries) if entries else "version: 1\noperators: {}\n"
        self.path.write_text(text)
        self.path.chmod(0o644)

    def enter(self, _tx: Tx) -> None:
        if self.fenced:
            raise EpochLost

    async def starts(self) -> Registry:
        await self.store.write(lambda tx: tx.start_epoch(replica="a", boot_id="boot", expires_boot=15.0, at=NOW))
        source = operators_source(self.path, self.key, trust_domain="test.acme", keys=())
        self.registry = Registry(source, self.store, self.clock, self.enter)
        await self.registry.start()
        return self.registry

    async def looks(self) -> None:
        for _ in range(2):
            await self.registry.look()

    async def told(self) -> list[Kind]:
        return [Kind(body["kind"]) for body in await self.records() if body["kind"] in {kind.value for kind in TOLD}]

    async def records(self) -> list[dict[str, Any]]:
        return [json.loads(entry.body) for entry in await self.store.read(lambda tx: tx.journal())]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_a_good_file_is_in_force_and_journalled(house: House) -> None:
    house.says(ANN, BOB)
    registry = await house.starts()
    assert registry.of(ID + "ann") is registry.current.operators["ann"]
    assert registry.problem == ""
    assert await house.told() == [Kind.OPERATORS_LOADED]
    assert (await house.records())[-1]["data"] == {
        "digest": registry.current.digest,
        "operators": {"ann": ["approver"], "bob": ["responder"]},
    }


async def test_a_change_is_in_force_once_it_was_seen_twice(house: House) -> None:
    house.says(ANN, BOB)
    registry = await house.starts()
    house.says(BOB)
    await registry.look()
    assert registry.of(ID + "ann") is not None
    await registry.look()
    assert registry.of(ID + "ann") is None
    assert await house.told() == [Kind.OPERATORS_LOADED] * 2


@pytest.mark.parametrize("bad", ["roles", "gone", "writable", "yaml"])
async def test_i7_a_bad_file_keeps_the_last_good_one_and_is_told_once(house: House, bad: str) -> None:
    house.says(ANN, BOB)
    registry = await house.starts()
    match bad:
        case "roles":
            house.says(ANN, BAD)
        case "yaml":
            house.says(ANN, "  bob: {")
        case "gone":
            await asyncio.to_thread(house.path.unlink)
        case _:
            await asyncio.to_thread(house.path.chmod, 0o666)
    for _ in range(5):
        await house.looks()
    assert {*registry.current.operators} == {"ann", "bob"}
    assert registry.problem
    assert await house.told() == [Kind.OPERATORS_LOADED, Kind.OPERATORS_REFUSED]
    house.says(BOB)
    await house.looks()
    assert registry.problem == ""
    assert (await house.told())[2:] == [Kind.OPERATORS_LOADED]


async def test_a_file_that_is_put_back_as_it_was_is_no_problem_any_more(house: House) -> None:
    house.says(ANN)
    registry = await house.starts()
    house.says(BAD)
    await house.looks()
    house.says(ANN)
    await house.looks()
    assert registry.problem == ""
    assert await house.told() == [Kind.OPERATORS_LOADED, Kind.OPERATORS_REFUSED]


async def test_a_start_with_a_bad_file_serves_and_nobody_has_a_role(house: House) -> None:
    house.says(ANN, BAD)
    registry = await house.starts()
    assert registry.current is NOBODY
    assert registry.of(ID + "ann") is None
    assert "operators.yaml:4:" in registry.problem
    assert await house.told() == [Kind.OPERATORS_REFUSED]
    house.says(ANN, BOB)
    await house.looks()
    assert registry.of(ID + "ann") is not None
    assert await house.told() == [Kind.OPERATORS_REFUSED, Kind.OPERATORS_LOADED]


async def test_a_reload_of_what_is_in_force_says_nothing_again(house: House) -> None:
    house.says(ANN)
    registry = await house.starts()
    await registry.reload()
    assert await house.told() == [Kind.OPERATORS_LOADED]
    house.says(BOB)
    await registry.reload()
    assert {*registry.current.operators} == {"bob"}


async def test_an_empty_file_is_nobody_and_no_mistake(house: House) -> None:
    house.says()
    registry = await house.starts()
    assert (registry.problem, dict(registry.current.operators)) == ("", {})


async def test_the_sealing_key_is_read_with_the_file(house: House) -> None:
    key = parse_key(await asyncio.to_thread(house.key.read_bytes))
    sealed = key.seal("ann", 1, Secret(SECRET))
    house.says(f"  ann: {{ids: ['{ID}ann'], second_factor: {{revision: 1, sealed: '{sealed.text}'}}}}\n")
    registry = await house.starts()
    assert registry.current.key is not None
    assert registry.current.key.open("ann", sealed).reveal() == SECRET
    await asyncio.to_thread(house.key.unlink)
    generate_key(house.key)  # another one: what is sealed does not open under it
    await house.looks()
    assert "of operator 'ann'" in registry.problem
    assert registry.current.key.open("ann", sealed).reveal() == SECRET  # the last good pair
    assert SECRET not in registry.problem


async def test_a_key_that_others_can_read_is_none(house: House) -> None:
    house.says(ANN)
    await asyncio.to_thread(house.key.chmod, 0o640)
    registry = await house.starts()
    assert "chmod 600" in registry.problem
    assert registry.current is NOBODY


async def test_what_could_not_be_journalled_is_in_force_and_journalled_later(house: House) -> None:
    house.says(ANN, BOB)
    registry = await house.starts()
    house.says(BOB)
    house.fenced = True
    await registry.look()
    with pytest.raises(StoreError):
        await registry.look()
    assert registry.of(ID + "ann") is None  # who was taken out is out
    house.fenced = False
    await registry.look()
    assert await house.told() == [Kind.OPERATORS_LOADED] * 2


async def test_the_watch_goes_on_whatever_happens(house: House) -> None:
    house.says(ANN, BOB)
    registry = await house.starts()
    async with registry.watching():
        house.fenced = True
        house.says(BOB)
        await _until(lambda: registry.of(ID + "ann") is None)
        house.fenced = False
        house.says(ANN)
        await _until(lambda: registry.of(ID + "ann") is not None)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - files have no events
            await asyncio.sleep(0.01)


async def test_without_a_file_nobody_is_an_operator() -> None:
    registry = Registry(None, MemoryStore(), FakeClock(), lambda _tx: None)
    await registry.start()
    async with registry.watching():
        await registry.look()
    assert registry.of(ID + "ann") is None
    assert registry.owner_of_key("ann-2026") is None
    assert registry.problem == ""
