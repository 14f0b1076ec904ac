"""The watch on a real folder: with events, without them, and behind the links of a Kubernetes ConfigMap."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.clock import SystemClock
from broker.policy.live import watch
from broker.policy.live.holder import Policies
from broker.policy.live.source import Source
from broker.policy.live.watch import Watcher
from tests.fakes.memory_store import MemoryStore
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE

_NUMBERS = itertools.count()
LONG, SHORT = timedelta(hours=1), timedelta(seconds=0.05)


def a_map(number: int) -> str:
    return BASE + f"grants:\n  version-{number}: {{workloads: [load], workflows: ['*'], scopes: [orders]}}\n"


def in_force(policies: Policies) -> str:
    return next(iter(policies.map.grants))


@asynccontextmanager
async def watched(path: Path, *, poll: timedelta = LONG, events: bool = True) -> AsyncIterator[Policies]:
    store, clock = MemoryStore(), SystemClock()
    await store.write(lambda tx: tx.start_epoch(replica="r", boot_id="b", expires_boot=1.0, at=clock.now()))
    policies = Policies(path, KINDS, settle=0.02)
    await policies.load_initial(store, clock)
    async with Watcher(policies, poll=poll, events=events).watching():
        yield policies


async def until(check: Callable[[], bool], within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not check():  # noqa: ASYNC110 - what is waited for happens in the file system
            await asyncio.sleep(0.01)


async def follows(policies: Policies, put: Callable[[int], Any], *, rounds: int = 4) -> None:
    for number in range(2, 2 + rounds):
        put(number)
        await until(lambda number=number: in_force(policies) == f"version-{number}")  # type: ignore[misc]  # the default
    assert policies.generation == 1 + rounds


def replace(path: Path, text: str) -> None:
    beside = path.with_name(".new")
    beside.write_text(text)
    beside.replace(path)


@pytest.mark.parametrize("events", [True, False], ids=["events", "poll"])
@pytest.mark.parametrize("put", [Path.write_text, replace], ids=["written", "replaced"])
async def test_a_change_is_taken(tmp_path: Path, put: Callable[[Path, str], Any], *, events: bool) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(a_map(1))
    async with watched(path, poll=LONG if events else SHORT, events=events) as policies:
        await follows(policies, lambda number: put(path, a_map(number)))


class ConfigMap:
    """A volume as the kubelet makes it: files → `..data` → a folder of this version; a swap is one rename."""

    def __init__(self, folder: Path, name: str = "scopes.yaml") -> None:
        folder.mkdir()
        self.folder = folder
        self.name = name
        self.version = ""
        self.put(a_map(1))
        (folder / name).symlink_to(f"..data/{name}")

    def put(self, text: str) -> None:
        older, self.version = self.version, f"..2026_11_27_{next(_NUMBERS)}"
        (self.folder / self.version).mkdir()
        (self.folder / self.version / self.name).write_text(text)
        swap = self.folder / "..data_tmp"
        swap.symlink_to(self.version)
        swap.rename(self.folder / "..data")
        if older:
            (self.folder / older / self.name).unlink()
            (self.folder / older).rmdir()


async def test_a_configmap_s_swap_is_taken(tmp_path: Path) -> None:
    volume = ConfigMap(tmp_path / "scopes")
    async with watched(volume.folder / "scopes.yaml") as policies:
        await follows(policies, lambda number: volume.put(a_map(number)))


async def test_a_link_to_a_file_elsewhere_is_followed(tmp_path: Path) -> None:
    volume = ConfigMap(tmp_path / "scopes")
    (tmp_path / "etc").mkdir()
    link = tmp_path / "etc" / "map.yaml"
    link.symlink_to(Path("..") / "scopes" / "scopes.yaml")
    async with watched(link) as policies:
        await follows(policies, lambda number: volume.put(a_map(number)), rounds=2)
        other = tmp_path / "other.yaml"
        other.write_text(a_map(9))
        link.unlink()
        link.symlink_to(other)
        await until(lambda: in_force(policies) == "version-9")
        other.write_text(a_map(10))
        await until(lambda: in_force(policies) == "version-10")


def test_every_link_on_the_way_is_watched(tmp_path: Path) -> None:
    volume = ConfigMap(tmp_path / "scopes")
    (tmp_path / "a").symlink_to("scopes")
    source = Source(path=tmp_path / "a" / "scopes.yaml", kinds=KINDS)
    (tmp_path / "teams").mkdir()
    assert source.folders(["../teams/pay.yaml", "../gone/x.yaml"]) == {
        tmp_path,  # the link `a`
        volume.folder,  # the links `scopes.yaml` and `..data`
        volume.folder / volume.version,
        tmp_path / "teams",
    }


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert Source(path=tmp_path / "a", kinds=KINDS).folders([]) == {tmp_path}


def test_a_name_that_is_too_long_takes_nothing_from_the_others(tmp_path: Path) -> None:
    source = Source(path=tmp_path / "map.yaml", kinds=KINDS)
    assert source.folders([f"teams/{'x' * 300}/pay.yaml", "x" * 300]) == {tmp_path}


def test_a_link_that_goes_while_it_is_read_is_watched_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = ConfigMap(tmp_path / "scopes")

    def gone(_: Path) -> Path:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "readlink", gone)
    assert volume.folder in Source(path=volume.folder / "scopes.yaml", kinds=KINDS).folders([])


async def test_whatever_happens_to_its_folders_the_watch_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(a_map(1))
    async with watched(path, poll=SHORT) as policies:

        def fails() -> frozenset[Path]:
            raise OSError("file name too long")

        monkeypatch.setattr(policies, "folders", fails)
        await follows(policies, lambda number: path.write_text(a_map(number)), rounds=2)


async def test_a_file_system_without_events_is_polled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(*_: Any, **__: Any) -> AsyncIterator[set[Any]]:
        raise OSError("no space left on device")  # inotify has no watches left
        yield set()

    monkeypatch.setattr(watch, "awatch", none)
    path = tmp_path / "map.yaml"
    path.write_text(a_map(1))
    async with watched(path, poll=SHORT) as policies:
        await follows(policies, lambda number: path.write_text(a_map(number)))


async def test_whatever_happens_in_a_look_the_next_one_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(a_map(1))
    async with watched(path, poll=SHORT, events=False) as policies:
        look, failed = policies.look, asyncio.Event()

        async def fails() -> bool:
            failed.set()
            raise ValueError

        monkeypatch.setattr(policies, "look", fails)
        await failed.wait()
        monkeypatch.setattr(policies, "look", look)
        await follows(policies, lambda number: path.write_text(a_map(number)), rounds=1)


async def test_nothing_is_written_while_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(a_map(1))
    async with watched(path, poll=SHORT) as policies:
        looks = 0
        look = policies.look

        async def counted() -> bool:
            nonlocal looks
            looks += 1
            return await look()

        policies.look = counted  # type: ignore[method-assign]  # counts
        (tmp_path / "a-neighbour").write_text("x")
        path.touch()
        await until(lambda: looks > 3)
        assert policies.generation == 1
