"""The one place that translates sqlite3's errors into the store's."""

from __future__ import annotations

import sqlite3

from broker.errors import StoreConflict, StoreError, StoreFull

_UNIQUE = {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID}
_PRIMARY_CODE = 0xFF  # an extended result code holds the primary one in its low byte


def translate(error: sqlite3.Error) -> StoreError:
    """The StoreError to raise instead. SQLite's texts name tables and columns, never values."""
    code = getattr(error, "sqlite_errorcode", None)  # absent on errors of Python's wrapper
    if code in _UNIQUE:
        return StoreConflict(f"it exists already ({error})")
    if code is not None and code & _PRIMARY_CODE == sqlite3.SQLITE_FULL:
        return StoreFull("the database cannot grow: the disk or its quota is full")
    return StoreError(f"{getattr(error, 'sqlite_errorname', type(error).__name__)}: {error}")
