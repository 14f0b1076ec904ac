"""The journal's head in a file elsewhere: a database that was put back in time is refused."""

from __future__ import annotations

import asyncio
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.errors import ConfigError
from broker.journal import anchor
from broker.metrics import Metrics
from broker.store.anchoring import EVERY, LOOK, Anchoring
from broker.store.sqlite import SqliteStore, open_store
from tests.fakes.clock import FakeClock
from tests.fakes.domain import NOW, denied


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mint.key.anchor"


def anchoring(store: SqliteStore, file: Path, clock: FakeClock | None = None) -> Anchoring:
    return Anchoring(store, file, clock or FakeClock())


async def grow(store: SqliteStore) -> None:
    await store.write(lambda tx: tx.append(denied("r")))


async def backup(store: SqliteStore, to: Path) -> Path:
    """A copy of the closed database."""
    await store.close()
    shutil.copy(to.with_name("stepcred.db"), to)
    return to


def gone(file: Path) -> None:
    file.unlink()


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def spoil_folder(file: Path) -> None:
    """A folder in its place cannot be replaced by a file."""
    file.unlink()
    file.mkdir()


def mend_folder(file: Path) -> None:
    file.rmdir()


def spoil(file: Path, text: str) -> None:
    file.write_text(text)


async def refused(path: Path, file: Path) -> str:
    store = open_store(path)
    try:
        with pytest.raises(ConfigError) as caught:
            await anchoring(store, file).must_fit()
    finally:
        await store.close()
    (problem,) = caught.value.problems
    assert "stepcred-broker recover --since" in problem
    return problem


async def test_an_honest_database_fits_its_anchor_whatever_it_wrote_since(store: SqliteStore, file: Path) -> None:
    await anchoring(store, file).must_fit()  # never anchored, and nothing there
    await anchoring(store, file).write()
    await anchoring(store, file).must_fit()
    await grow(store)
    await store.write(lambda tx: tx.start_epoch(replica="a", boot_id="b", expires_boot=1, at=NOW))
    await anchoring(store, file).must_fit()
    assert mode(file) == 0o600


async def test_a_restored_database_is_refused(store: SqliteStore, path: Path, file: Path) -> None:
    older = await backup(store, path.with_name("backup.db"))
    again = open_store(path)
    await grow(again)
    await anchoring(again, file).write()
    await again.close()
    shutil.copy(older, path)
    assert "lacks the journal record 1/1" in await refused(path, file)


async def test_a_restored_database_that_went_on_is_refused_by_the_hash(
    store: SqliteStore, path: Path, file: Path
) -> None:
    older = await backup(store, path.with_name("backup.db"))
    again = open_store(path)
    await again.write(lambda tx: tx.append(denied("one past")))
    await anchoring(again, file).write()
    await again.close()
    shutil.copy(older, path)
    other = open_store(path)
    await other.write(lambda tx: tx.append(denied("another past")))
    await grow(other)
    await other.close()
    assert "journal record 1/1 differs" in await refused(path, file)


async def test_a_lost_database_is_refused(store: SqliteStore, path: Path, file: Path) -> None:
    await anchoring(store, file).write()
    await store.close()
    gone(path)
    assert "lacks" in await refused(path, file)


async def test_a_lost_anchor_is_refused_once_there_was_one(store: SqliteStore, path: Path, file: Path) -> None:
    await anchoring(store, file).write()
    await store.close()
    gone(file)
    assert "is missing" in await refused(path, file)


@pytest.mark.parametrize("text", ["", "[]", '{"chain": 1}', '{"chain":1,"seq":0,"hash":"zz","installation":"x"}'])
async def test_a_file_that_is_no_anchor_is_refused(store: SqliteStore, file: Path, text: str) -> None:
    spoil(file, text)
    with pytest.raises(ConfigError, match="is no anchor"):
        await anchoring(store, file).must_fit()


async def test_it_is_written_at_the_start_every_minute_and_at_the_end(store: SqliteStore, file: Path) -> None:
    clock = FakeClock()
    keeper = anchoring(store, file, clock)
    async with keeper.kept():
        assert seq(file) == 0
        await grow(store)
        assert not await passes(clock, EVERY - LOOK, lambda: seq(file) == 1)
        assert await passes(clock, 3 * LOOK, lambda: seq(file) == 1)
        await grow(store)
    await keeper.close()
    assert seq(file) == 2


async def test_a_new_epoch_is_anchored_soon(store: SqliteStore, file: Path) -> None:
    clock = FakeClock()
    async with anchoring(store, file, clock).kept():
        await store.write(lambda tx: tx.start_epoch(replica="a", boot_id="b", expires_boot=1, at=NOW))
        assert await passes(clock, 3 * LOOK, lambda: chain(file) == 2)


async def passes(clock: FakeClock, seconds: float, check: Callable[[], bool]) -> bool:
    """True once it does. Time passes in steps; real threads read and write in between."""
    for _ in range(int(seconds)):
        clock.advance(1)
        await asyncio.sleep(0.02)
        if check():
            return True
    return False


async def test_a_start_that_cannot_write_its_anchor_is_refused(store: SqliteStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        async with anchoring(store, tmp_path / "nowhere" / "anchor").kept():
            pass
    assert not (await store.read(lambda tx: tx.control())).anchored


async def test_a_file_that_can_no_longer_be_written_is_counted(store: SqliteStore, file: Path) -> None:
    clock, metrics = FakeClock(), Metrics()

    def failing() -> bool:
        return metrics.registry.get_sample_value("stepcred_anchor_failing") == 1

    async with Anchoring(store, file, clock, metrics).kept():
        spoil_folder(file)
        await grow(store)
        assert await passes(clock, EVERY + 3 * LOOK, failing)
        mend_folder(file)
        assert await passes(clock, EVERY + 3 * LOOK, lambda: not failing())


async def test_a_crash_between_file_and_database_refuses_no_honest_start(store: SqliteStore, file: Path) -> None:
    control, head = await store.read(lambda tx: (tx.control(), tx.journal_head()))
    assert head is not None
    anchor.write(file, anchor.Anchor(installation=control.installation, head=head))
    await anchoring(store, file).must_fit()


def chain(file: Path) -> int:
    held = anchor.read(file)
    assert held is not None
    return held.head.chain


def seq(file: Path) -> int:
    held = anchor.read(file)
    assert held is not None
    return held.head.seq


async def test_while_it_is_written_nobody_is_alarmed(store: SqliteStore, file: Path) -> None:
    """The watcher of alerts may look in just that moment."""
    anchored = anchoring(store, file)
    await anchored.write()
    await grow(store)
    seen: list[bool] = []
    writing = asyncio.ensure_future(anchored.close())
    while not writing.done():
        seen.append(anchored.failing)
        await asyncio.sleep(0)
    assert seen
    assert not any(seen)
