"""Numbered migrations, each in a transaction of its own together with its `user_version`."""

from __future__ import annotations

from pathlib import Path

from broker.errors import StoreError
from broker.store.sqlite import sql
from broker.store.sqlite.database import Database

APPLICATION_ID = 0x5343_5244  # "SCRD": tells our file from any other SQLite database


def migrate(database: Database, path: Path) -> None:
    """Bring the database to this program's version. Raises StoreError when it is newer, or not ours."""
    current = _version(database, path)
    for version, script in sql.migrations()[current:]:
        try:
            database.script(
                f"BEGIN EXCLUSIVE;\n{script}\n"
                f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version}; COMMIT;"
            )
        except StoreError:
            database.rollback()
            raise


def must_be_current(database: Database, path: Path) -> None:
    """For those who may not migrate. Raises StoreError."""
    version, newest = _version(database, path), len(sql.migrations())
    if version < newest:
        raise StoreError(f"database {path} is of version {version}, this program reads {newest}; start the daemon once")


def _version(database: Database, path: Path) -> int:
    found = _pragma(database, "user_version")
    tables = database.all("SELECT 1 FROM sqlite_schema LIMIT 1")
    if tables and _pragma(database, "application_id") != APPLICATION_ID:
        raise StoreError(f"{path} is a database of another program")
    newest = len(sql.migrations())
    if found > newest:
        raise StoreError(f"database {path} is of version {found}, newer than this program, which knows {newest}")
    return found


def _pragma(database: Database, name: str) -> int:
    (row,) = database.all(f"PRAGMA {name}")
    return int(row[0])
