"""kill -9 in the middle of writes, and a file that may not grow: what was answered is there, the rest is not."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

from broker.journal.chain import verify
from broker.store.base import tail
from broker.store.sqlite import open_store

_WRITES = """
import asyncio, sys
from pathlib import Path
from broker.errors import StoreError
from broker.store.sqlite import open_store
from tests.fakes.domain import NOW, denied, step

async def client(store, epoch, client):
    for number in range(1_000_000):
        name = f"{epoch}-{client}-{number}"
        await store.write(lambda tx: (tx.insert_step(step(name)), tx.append(denied(name))))
        sys.stdout.write(name + "\\n")
        sys.stdout.flush()

async def main():
    store = open_store(Path(sys.argv[1]), reserve_bytes=100_000)
    epoch = await store.write(lambda tx: tx.start_epoch(replica="a", boot_id="b", expires_boot=1, at=NOW))
    results = await asyncio.gather(*(client(store, epoch, n) for n in range(16)), return_exceptions=True)
    assert all(isinstance(result, StoreError) for result in results), results
    head = await store.read(lambda tx: tx.journal_head())
    await store.close()

asyncio.run(main())
"""

_LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))\n" + _WRITES


async def check(path: Path, answered: list[str]) -> None:
    """Everything answered is there, with its record; nothing is there by half."""
    store = open_store(path)
    entries = await store.read(lambda tx: list(tail(tx)))
    steps = {step.id for step in await store.read(lambda tx: tx.open_steps())}
    await store.close()
    assert verify(entries) == []
    journalled = [json.loads(entry.body).get("reference_id") for entry in entries]
    names = [name for name in journalled if name]
    assert len(names) == len(set(names))
    assert set(names) == steps
    assert set(answered) <= steps
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def answered_until_killed(path: Path, lines: int) -> list[str]:
    child = subprocess.Popen([sys.executable, "-c", _WRITES, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        answered = [child.stdout.readline().strip() for _ in range(lines)]
    finally:
        child.kill()
        rest = child.stdout.read()  # communicate() would begin behind what readline() has buffered, within a line
        child.wait(30)
    return answered + rest.split("\n")[:-1]  # a line without its end was cut off


def answered_until_refused(path: Path) -> list[str]:
    child = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert child.returncode == 0, child.stderr
    return child.stdout.split()


async def test_after_kill_9_everything_answered_is_there_and_the_chain_holds(path: Path) -> None:
    answered: list[str] = []
    for lines in (150, 220, 290):
        answered += answered_until_killed(path, lines)
        assert all(answered)
        await check(path, answered)


async def test_a_file_that_may_not_grow_is_an_error_for_its_callers_and_the_database_stays_whole(path: Path) -> None:
    answered = answered_until_refused(path)
    assert answered
    await check(path, answered)
