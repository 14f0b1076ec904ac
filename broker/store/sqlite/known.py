"""What the writing connection knows of the rows that it has read or written: asked for again, they cost no statement.

It cannot be stale, and so no authorisation can. Within a transaction nobody else writes. Between two, SQLite tells
whether another connection has written (`PRAGMA data_version`), and then all is forgotten. When an operation is undone,
what is known is again what was known before it, for so the rows are again; and nothing is when a group is lost.

What is *owed* is known and not yet written: rows that many operations of a group change are written once, at its end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar, cast

T = TypeVar("T")

MOST = 4096  # rows, a kilobyte or two each: then it begins anew


class Kind(StrEnum):
    """Of a row, or of what was found out about several."""

    CONTROL = "control"
    EPOCH = "epoch"
    FREEZES = "freezes"
    STEP = "step"  # by id
    HANDLE = "handle"  # by its hash: the step's id
    REFS = "refs"  # of a lease that is being minted, by its id
    GUARD_ROW = "guard row"  # by key
    GUARD_CLOCK = "guard clock"
    CHARGES = "charges"  # by hour key or scope: how many there are at most


class _Missing:
    """Not known."""


MISSING = _Missing()


class _Before(NamedTuple):
    """How it stood with one row before the running operation, or a part of it, changed that."""

    kind: Kind
    key: Hashable
    value: object  # MISSING: not known
    owed: bool


class Known:
    """Used by one thread at a time."""

    def __init__(self) -> None:
        self._version = -1
        self._rows: defaultdict[Kind, dict[Hashable, object]] = defaultdict(dict)
        self._count = 0
        self._before: list[_Before] = []  # what the running operation has changed, the latest last
        self._owed: dict[tuple[Kind, Hashable], None] = {}  # put, and to be written with the group

    def get(self, kind: Kind, key: Hashable, load: Callable[[], T]) -> T:
        """As it is in the database, now. `load`: asks it."""
        found = self._rows[kind].get(key, MISSING)
        if isinstance(found, _Missing):
            found = load()
            self.put(kind, key, found)
        return cast(T, found)

    def peek(self, kind: Kind, key: Hashable) -> Any:
        """MISSING when it is not known."""
        return self._rows[kind].get(key, MISSING)

    def put(self, kind: Kind, key: Hashable, value: object) -> None:
        """It was just written so, or read."""
        self._note(kind, key)
        self._rows[kind][key] = value
        self._count += 1

    def owe(self, kind: Kind, key: Hashable, value: object) -> None:
        """It shall be written so, once for all operations of the group: by whoever takes what is `owed`."""
        self.put(kind, key, value)
        self._owed[kind, key] = None

    def owed(self, kind: Kind) -> list[Any]:
        """What of this kind the caller writes now; it is owed no more."""
        keys = [key for owed, key in self._owed if owed is kind]
        for key in keys:
            self._note(kind, key)
            del self._owed[kind, key]
        return [self._rows[kind][key] for key in keys]

    def drop(self, kind: Kind, key: Hashable) -> None:
        """It was written, and nobody says how it stands."""
        self._note(kind, key)
        self._rows[kind].pop(key, None)
        self._owed.pop((kind, key), None)

    def forget(self, kind: Kind) -> None:
        """All of them were written, perhaps."""
        for key in [*self._rows[kind]]:
            self.drop(kind, key)

    def begin(self, version: int) -> bool:
        """A transaction; `version`: PRAGMA data_version within it. True when all was forgotten."""
        if version == self._version and self._count <= MOST:
            return False
        self.forget_all()
        self._version = version
        return True

    def forget_all(self) -> None:
        """A transaction was lost."""
        self._version, self._count = -1, 0
        self._rows.clear()
        self._before.clear()
        self._owed.clear()

    def keep(self) -> None:
        """The operation stands, as far as it is up to itself."""
        self._before.clear()

    def undo(self) -> None:
        """The operation was undone: the rows are as they were before it, and so is what is known and owed."""
        for kind, key, value, owed in reversed(self._before):
            if isinstance(value, _Missing):
                self._rows[kind].pop(key, None)
            else:
                self._rows[kind][key] = value
            if owed:
                self._owed[kind, key] = None
            else:
                self._owed.pop((kind, key), None)
        self._before.clear()

    def _note(self, kind: Kind, key: Hashable) -> None:
        """First line of whatever changes what is known or owed of a row."""
        value = self._rows[kind].get(key, MISSING)
        self._before.append(_Before(kind, key, value, (kind, key) in self._owed))
