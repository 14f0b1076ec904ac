"""Every statement that is given to SQLite, by its `-- name:` in the query files.

Not by SQLite's own trace: what Python makes of that tells a statement once more for each trigger that it fires.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple, cast

from broker.store.sqlite import sql

WORDS = 2  # of a statement without a name


class Statement(NamedTuple):
    """One run of one statement."""

    name: str  # `area.name`; of one that is in no query file its first words
    kind: str  # select, insert, update, delete; control for the rest
    values: str


@cache
def _names() -> dict[str, str]:
    folder = files("broker.store.sqlite") / "queries"
    areas = sorted(file.name.removesuffix(".sql") for file in folder.iterdir())
    return {text: f"{area}.{name}" for area in areas for name, text in sql.queries(area).items()}


def statement(text: str, values: object) -> Statement:
    code = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    words = " ".join(code).replace(";", " ").split()
    kind = {"with": "select"}.get(words[0].lower(), words[0].lower())
    kind = kind if kind in ("select", "insert", "update", "delete") else "control"
    return Statement(_names().get(text) or " ".join(words[:WORDS]), kind, repr(values))


@contextmanager
def seen(tell: Callable[[str, object], None]) -> Iterator[None]:
    """Whatever is run on connections that are opened meanwhile is told, from their threads, for their whole lives."""

    class Cursor(sqlite3.Cursor):
        def execute(self, text: str, values: Any = (), /) -> Cursor:
            tell(text, values)
            return super().execute(text, values)

        def executemany(self, text: str, rows: Iterable[Any], /) -> Cursor:
            kept = list(rows)
            for values in kept:
                tell(text, values)
            return super().executemany(text, kept)

        def executescript(self, text: str, /) -> Cursor:
            tell(text, ())
            return cast(Cursor, super().executescript(text))

    class Connection(sqlite3.Connection):
        def cursor(self, factory: Any = Cursor) -> Any:
            return super().cursor(factory)

        def execute(self, text: str, values: Any = (), /) -> Cursor:
            return cast(Cursor, self.cursor().execute(text, values))

        def executemany(self, text: str, rows: Iterable[Any], /) -> Cursor:
            return cast(Cursor, self.cursor().executemany(text, rows))

        def executescript(self, text: str, /) -> Cursor:
            return cast(Cursor, self.cursor().executescript(text))

    connect = sqlite3.connect
    sqlite3.connect = lambda *given, **more: connect(*given, **{"factory": Connection} | more)
    try:
        yield
    finally:
        sqlite3.connect = connect
