"""The daemon's current map: swapped only for a good one, only when that is durable (I7)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from broker.errors import StoreError
from broker.policy.live.holder import Policies
from broker.policy.problems import ScopeMapError
from broker.store.base import Tx, tail
from tests.fakes.clock import FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, allowed, ask, denied

T = TypeVar("T")
GOOD = BASE + "grants:\n  nightly: {workloads: [load], workflows: [etl], scopes: [orders]}\n"
WIDER = GOOD.replace("[orders]", "[orders, lake]")


def put(path: Path, text: str | None) -> None:
    path.unlink() if text is None else path.write_text(text)


class FlakyStore(MemoryStore):
    """Fails writes while `broken`; answers late when `answer` is an event: durable, and nobody knows yet."""

    broken = False
    answer: asyncio.Event | None = None

    def __init__(self) -> None:
        super().__init__()
        self.durable = asyncio.Event()

    async def write(self, operation: Callable[[Tx], T], **how: Any) -> T:
        if self.broken:
            raise StoreError("the disk is full")
        result = await super().write(operation, **how)
        self.durable.set()
        if self.answer is not None:
            await self.answer.wait()
        return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "map.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture
async def store() -> FlakyStore:
    store = FlakyStore()
    await store.write(lambda tx: tx.start_epoch(replica="r", boot_id="b", expires_boot=1.0, at=FakeClock().now()))
    return store


@pytest.fixture
async def policies(path: Path, store: FlakyStore) -> Policies:
    policies = Policies(path, KINDS, environment="prod", settle=0)
    await policies.load_initial(store, FakeClock())
    return policies


async def journal(store: MemoryStore) -> list[dict[str, object]]:
    bodies = await store.read(lambda tx: [json.loads(entry.body) for entry in tail(tx)])
    return [body for body in bodies if body["kind"].startswith("POLICY")]


async def stored_generation(store: MemoryStore) -> int:
    return await store.read(lambda tx: tx.control().policy_generation)


async def test_the_first_load_raises_the_generation_and_is_journalled(policies: Policies, store: FlakyStore) -> None:
    assert policies.generation == await stored_generation(store) == 1
    (loaded,) = await journal(store)
    plan = {
        "workloads": {"added": ["load", "plain", "team"]},
        "scopes": {"added": ["lake", "orders", "scratch"]},
        "grants": {"added": ["nightly"]},
    }
    data = {"digest": policies.map.digest, "generation": 1, "grants": 1, "from": "files", "plan": {"rules": plan}}
    assert (loaded["kind"], loaded["data"]) == ("POLICY_LOADED", data | {"file": policies.map.file})


async def test_i7_a_bad_map_at_start_is_refused_and_nothing_is_served(path: Path, store: FlakyStore) -> None:
    put(path, GOOD + "typo: 1\n")
    policies = Policies(path, KINDS, settle=0)
    with pytest.raises(ScopeMapError, match="unknown key 'typo'"):
        await policies.load_initial(store, FakeClock())
    with pytest.raises(RuntimeError):
        _ = policies.map


@pytest.mark.parametrize("bad", ["", "version: 1\n", WIDER + "typo: 1\n", WIDER.replace("prod\n", "dev\n", 1), None])
async def test_i7_a_bad_map_keeps_the_last_good_one_and_says_so(
    policies: Policies, store: FlakyStore, path: Path, bad: str | None
) -> None:
    before = policies.current
    put(path, bad)
    assert await policies.reload() is False
    assert policies.current is before
    assert await stored_generation(store) == 1
    assert denied(policies.map, ask("lake"))
    assert policies.last_problem.startswith(f"{path}:")
    refused = (await journal(store))[-1]
    assert (refused["kind"], refused["data"]["problems"]) == ("POLICY_REFUSED", policies.last_problem.splitlines())  # type: ignore[index]  # JSON

    put(path, GOOD)
    assert await policies.reload() is True
    assert policies.last_problem == ""


async def test_a_good_map_takes_over_with_its_generation(policies: Policies, store: FlakyStore, path: Path) -> None:
    put(path, WIDER)
    assert await policies.reload() is True
    assert policies.generation == await stored_generation(store) == 2
    assert allowed(policies.map, ask("lake"))


async def test_an_unchanged_file_changes_nothing(policies: Policies, store: FlakyStore) -> None:
    assert await policies.reload() is True
    assert policies.generation == await stored_generation(store) == 1
    assert len(await journal(store)) == 1


async def test_i3_a_map_that_cannot_be_journalled_does_not_take_over(
    policies: Policies, store: FlakyStore, path: Path
) -> None:
    put(path, WIDER)
    store.broken = True
    with pytest.raises(StoreError):
        await policies.reload()
    assert denied(policies.map, ask("lake"))
    store.broken = False
    assert await policies.reload() is True
    assert policies.generation == await stored_generation(store) == 2


async def test_a_caller_that_goes_away_leaves_map_and_generation_together(
    policies: Policies, store: FlakyStore, path: Path
) -> None:
    put(path, WIDER)
    store.answer = asyncio.Event()
    store.durable.clear()
    caller = asyncio.create_task(policies.reload())
    await store.durable.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    store.answer.set()
    assert await policies.reload() is True  # waits for the first
    assert policies.generation == await stored_generation(store) == 2
    assert allowed(policies.map, ask("lake"))


async def test_reloads_at_once_come_one_after_the_other(policies: Policies, store: FlakyStore, path: Path) -> None:
    put(path, WIDER)
    assert await asyncio.gather(*(policies.reload() for _ in range(5))) == [True] * 5
    assert policies.generation == await stored_generation(store) == 2


async def test_another_part_of_the_daemon_may_raise_the_generation(policies: Policies, store: FlakyStore) -> None:
    policies.generation_raised(await store.write(lambda tx: tx.raise_generation()))
    assert policies.generation == await stored_generation(store) == 2
    policies.generation_raised(1)
    assert policies.generation == 2


async def test_and_that_before_the_first_map_is_loaded(path: Path, store: FlakyStore) -> None:
    """A trust bundle may change while the daemon starts."""
    policies = Policies(path, KINDS, settle=0)
    policies.generation_raised(await store.write(lambda tx: tx.raise_generation()))
    await policies.load_initial(store, FakeClock())
    assert policies.generation == await stored_generation(store)


async def test_i7_a_map_that_everybody_may_write_is_refused_at_a_reload_too(
    policies: Policies, store: FlakyStore, path: Path
) -> None:
    put(path, WIDER)
    writable(path, everybody=True)
    assert not await policies.reload()
    assert "can be written by everybody" in policies.last_problem
    assert policies.generation == 1
    writable(path, everybody=False)
    assert await policies.reload()


def writable(path: Path, *, everybody: bool) -> None:
    path.chmod(0o666 if everybody else 0o644)
