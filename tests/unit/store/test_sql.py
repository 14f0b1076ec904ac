"""The .sql files: every query is known to the code, compiles, and finds its rows by an index."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

from broker.store.sqlite import sql

_SQLITE = Path(sql.__file__).parent
_AREAS = sorted(path.stem for path in (_SQLITE / "queries").glob("*.sql"))
_QUERIES = [(area, name) for area in _AREAS for name in sql.queries(area)]
_SMALL = {
    "control",
    "key_fingerprints",
    "raise_generation",
    "open_approvals",
    "approval_counts",
    "freezes",  # the few that there are
    "reviews",
    "firing",
    "resolved",
    "undelivered",
    "waiting_for",
    "guard_counts",
    "guard_clock",
    "set_anchored",
    "start_epoch",
    "raise_map_serial",
    "kept_map",
}  # one row, or a few
_OWN_INDEX = {  # asked every second or oftener, or a page at a time, however many leases there are
    "due_leases": "leases_due",
    "live_past": "leases_active_elapsed",
    "unclaimed": "leases_unclaimed",
    "open_step_ids": "steps_open",
    "lease_page": "leases_by_state",
    "high_lease_page": "leases_live_high",
}
_COVERED = {
    "nth_charge": "charges_counted",
    "nth_shared": "charges_shared",
    "count_charge": "charges_counted",
    "count_shared": "charges_shared",
}  # in the writer, over many entries
_LAST = {"epoch", "journal_head", "last_of_journal"}  # steps to the end of the key


@pytest.fixture(scope="module")
def connection() -> sqlite3.Connection:
    found = sqlite3.connect(":memory:")
    for _, script in sql.migrations():
        found.executescript(script)
    return found


@pytest.mark.parametrize(("area", "name"), _QUERIES, ids=lambda value: value)
def test_a_query_compiles_is_used_and_scans_no_table(connection: sqlite3.Connection, area: str, name: str) -> None:
    text = sql.queries(area)[name]
    assert f'"{name}"' in (_SQLITE / "tx" / f"{area}.py").read_text()
    plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + text, [1] * len(text.names))]
    if index := _OWN_INDEX.get(name):
        assert any(f"USING INDEX {index}" in line for line in plan), plan
        assert not any("TEMP B-TREE" in line for line in plan if name != "live_past"), plan
    if index := _COVERED.get(name):
        assert [line for line in plan if f"USING COVERING INDEX {index}" in line] == plan
    scans = [line for line in plan if re.match(r"SCAN (?!json_each)\w+$", line)]
    assert not scans or name in _SMALL | _LAST, plan


def test_migrations_count_from_one() -> None:
    assert [version for version, _ in sql.migrations()] == list(range(1, len(sql.migrations()) + 1))


@pytest.mark.parametrize("latest", [None, 1_750_000_000_000_000])
def test_the_guard_clock_goes_on_from_the_latest_admission_of_an_older_database(latest: int | None) -> None:
    older = sqlite3.connect(":memory:")
    scripts = dict(sql.migrations())
    for version in range(1, 7):
        older.executescript(scripts[version])
    for number, at in enumerate((latest, None if latest is None else latest - 5)):
        older.execute(
            "INSERT INTO guard VALUES (?, 'h', 'low', '{}', 0, 0, 0, 'OPEN', NULL, 0, ?, '[]', '[]')",
            (f"k{number}", at),
        )
    older.executescript(scripts[7])
    found = older.execute("SELECT at, wall, boot_id FROM guard_clock").fetchall()
    assert found == ([] if latest is None else [(latest, latest, "")])
