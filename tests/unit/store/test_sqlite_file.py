"""The database as a file: who may open it, what it refuses, what is left in it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from broker.errors import StoreError
from broker.journal.chain import verify
from broker.model import EndReason, Evidence, LeaseState
from broker.store.base import Tx, tail
from broker.store.sqlite import SqliteStore, open_readonly, open_store, sql
from broker.store.sqlite.migrate import APPLICATION_ID
from broker.store.sqlite.rows import step_row
from broker.store.sqlite.tx import SqliteTx
from tests.fakes.domain import NOW, denied, lease, seed, step


async def close_with_seed(path: Path) -> None:
    store = open_store(path)
    await store.write(lambda tx: tx.start_epoch(replica="a", boot_id="boot", expires_boot=1, at=NOW))
    await store.write(seed)
    await store.write(lambda tx: tx.append(denied("r1")))
    await store.close()


def content(path: Path) -> bytes:
    """Of the database and all that lies beside it."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.iterdir()) if not file.name.endswith(".lock"))


def main_file(path: Path) -> bytes:
    return path.read_bytes()


def failure_of(code: str) -> str:
    """What another process says when it fails."""
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert other.returncode == 1
    return other.stderr


def shell(path: Path, sql: str) -> None:
    """What an operator's shell, or a bug, would do."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(sql)
    finally:
        connection.close()


async def test_only_the_owner_can_read_the_files(store: SqliteStore, path: Path) -> None:
    await store.write(lambda tx: tx.raise_generation())
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {path.name + end: 0o600 for end in ("", "-wal", "-shm", ".lock", "-reserve")}


async def test_commits_are_durable_keys_hold_and_freed_space_is_overwritten(store: SqliteStore) -> None:
    """Whatever SQLite was compiled with."""

    def pragmas(tx: Tx) -> dict[str, object]:
        database = cast(SqliteTx, tx)._db
        names = ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        return {name: database.all(f"PRAGMA {name}")[0][0] for name in names}

    expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}
    assert await store.write(pragmas) == expected


async def test_a_second_daemon_is_refused_and_the_first_goes_on(store: SqliteStore, path: Path) -> None:
    with pytest.raises(StoreError, match=f"in use by another daemon .process {os.getpid()}.") as caught:
        open_store(path)
    assert str(path) in str(caught.value)
    code = f"from pathlib import Path; from broker.store.sqlite import open_store; open_store(Path({str(path)!r}))"
    assert "in use by another daemon" in failure_of(code)
    assert await store.write(lambda tx: tx.raise_generation()) == 1


async def test_a_linked_path_is_the_same_database(store: SqliteStore, path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    with pytest.raises(StoreError, match="in use"):
        open_store(link)


async def test_a_reopened_database_is_the_same_one(path: Path) -> None:
    await close_with_seed(path)
    store = open_store(path)
    assert await store.read(lambda tx: tx.lease("lease-1")) == lease()
    head = await store.write(lambda tx: tx.append(denied("r2")))
    assert (head.chain, head.seq) == (1, 2)
    assert await store.read(lambda tx: verify(tail(tx))) == []
    await store.close()


async def test_steps_from_before_there_were_launchers_have_started(path: Path) -> None:
    """Else those that are open would be given the time to start once more."""
    shell(path, f"PRAGMA application_id = {APPLICATION_ID}")
    newer = ("started_at", "bind", "spki_sha256", "serial_number", "issuer")
    older = {name: value for name, value in step_row(step()).items() if name not in newer}
    names = ", ".join(older)
    connection = sqlite3.connect(path)
    for number, script in sql.migrations()[:3]:
        connection.executescript(f"{script}; PRAGMA user_version = {number};")
    connection.execute(f"INSERT INTO steps ({names}) VALUES ({', '.join('?' * len(older))})", list(older.values()))
    connection.commit()
    connection.close()
    store = open_store(path)
    assert await store.read(lambda tx: tx.step("step-1")) == step(started_at=NOW)
    await store.close()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("PRAGMA user_version = 999", "newer than this program"),
        ("PRAGMA application_id = 1", "another program"),
    ],
)
async def test_a_database_that_is_not_ours_to_change_is_refused(path: Path, spoil: str, message: str) -> None:
    await close_with_seed(path)
    shell(path, spoil)
    before = main_file(path)
    for opener in (open_store, open_readonly):
        with pytest.raises(StoreError, match=message):
            opener(path)
    assert main_file(path) == before
    shell(path, f"PRAGMA application_id = {APPLICATION_ID}")
    shell(path, f"PRAGMA user_version = {len(sql.migrations())}")
    await open_store(path).close()  # the refusals held no lock


def test_another_programs_database_is_left_as_it_is(path: Path) -> None:
    shell(path, "CREATE TABLE theirs (x)")
    before = content(path)
    for opener in (open_store, open_readonly):
        with pytest.raises(StoreError, match="another program"):
            opener(path)
    assert content(path) == before


def test_what_is_no_database_is_refused(path: Path) -> None:
    path.write_text("not a database, but long enough to be taken for one\n" * 100)
    for opener in (open_store, open_readonly):
        with pytest.raises(StoreError, match=f"{path}.*not a database"):
            opener(path)
    with pytest.raises(StoreError, match="No such file or directory"):
        open_store(path.parent / "missing" / "stepcred.db")
    with pytest.raises(StoreError, match="no such file"):
        open_readonly(path.with_name("other.db"))


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE journal SET body = '{}' WHERE seq = 1",
        "DELETE FROM journal WHERE seq = 1",
        "INSERT INTO journal (chain, seq, body, prev, hash) VALUES (1, 9, '{}', x'', x'')",
        "INSERT OR REPLACE INTO journal (chain, seq, body, prev, hash) VALUES (1, 1, '{}', x'', x'')",
    ],
)
async def test_the_journal_only_grows_at_its_end(path: Path, sql: str) -> None:
    await close_with_seed(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        shell(path, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE leases SET state = 'REVOKED', evidence = 'SEEN_DEAD', ended_at = 1, nonce = x''",
        "UPDATE leases SET state = 'EXPIRED', evidence = 'EXPIRED', ended_at = 1, nonce = x''",
        "UPDATE leases SET state = 'VOID'",
        "UPDATE leases SET state = 'DONE'",
        "DELETE FROM leases",
        (
            "INSERT INTO leases SELECT 'x', step_id, agent, 'r', scope, provider, params, tier, revocability, 'ACTIVE', epoch,"
            " policy_generation, nonce, kid, guard_key, intent_at, expires_at, refs, 1, NULL, NULL, NULL, NULL, NULL, NULL,"
            " NULL, NULL, NULL, 0, 0, NULL, '', '', 0, '', '', '', '', '', '' FROM leases"
        ),
        "UPDATE leases SET refs = NULL",
        "UPDATE leases SET epoch = 'one'",
    ],
)
async def test_a_lease_row_cannot_be_brought_where_no_lease_may_be(path: Path, sql: str) -> None:
    await close_with_seed(path)
    with pytest.raises(sqlite3.IntegrityError):
        shell(path, sql)


async def test_an_ended_step_cannot_be_opened_again(path: Path) -> None:
    await close_with_seed(path)
    shell(path, "UPDATE steps SET state = 'ENDED'")
    with pytest.raises(sqlite3.IntegrityError, match="never opened again"):
        shell(path, "UPDATE steps SET state = 'OPEN'")


async def test_nothing_is_left_of_an_erased_nonce(path: Path) -> None:
    """Whoever finds an old database and the key must not be able to name old tokens."""
    await close_with_seed(path)
    nonce = lease().nonce
    assert nonce in content(path)

    def ends(tx: Tx) -> None:
        tx.to_revoking("lease-1", at=NOW, reason=EndReason.STEP_ENDED)
        assert tx.to_ended("lease-1", LeaseState.REVOKED, evidence=Evidence.SEEN_DEAD, at=NOW)

    store = open_store(path)
    await store.write(ends)
    await store.close()
    assert nonce not in content(path)


async def test_offline_tools_read_beside_a_running_daemon_and_cannot_write(store: SqliteStore, path: Path) -> None:
    await store.write(lambda tx: tx.append(denied("r1")))
    with open_readonly(path) as offline:
        found = offline.read(lambda tx: tx.denial("r1"))
        assert found is not None
        assert offline.read(lambda tx: verify(tail(tx))) == []
        with pytest.raises(StoreError, match="READONLY"):
            offline.read(lambda tx: tx.raise_generation())
        await store.write(lambda tx: tx.append(denied("r2")))
        assert offline.read(lambda tx: tx.denial("r2")) is not None


async def test_offline_tools_read_a_copy_of_a_crashed_database(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    await store.write(lambda tx: tx.append(denied("only in the write-ahead log")))
    copy = tmp_path / "copy"
    copy.mkdir()
    for end in ("", "-wal"):
        shutil.copy(path.with_name(path.name + end), copy / ("evidence.db" + end))
    with open_readonly(copy / "evidence.db") as offline:
        assert offline.read(lambda tx: tx.denial("only in the write-ahead log")) is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
async def test_offline_tools_read_on_read_only_ground(path: Path) -> None:
    await close_with_seed(path)
    path.parent.chmod(0o500)
    try:
        with open_readonly(path) as offline:
            assert offline.read(lambda tx: tx.denial("r1")) is not None
    finally:
        path.parent.chmod(0o700)


async def test_a_reserve_that_cannot_be_made_does_not_hang_the_start(tmp_path: Path) -> None:
    (tmp_path / "broker.db-reserve").mkdir()
    store = open_store(tmp_path / "broker.db")
    await store.write(lambda tx: tx.control())
    await store.close()
