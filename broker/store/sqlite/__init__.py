"""The store on one SQLite file."""

from broker.store.sqlite.store import OfflineStore, SqliteStore, open_readonly, open_store

__all__ = ["OfflineStore", "SqliteStore", "open_readonly", "open_store"]
