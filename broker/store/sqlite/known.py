"""What the writing connection knows of the rows that it has read or written: asked for again, they cost no statement.

It cannot be stale, and so no authorisation can. Within a transaction nobody else writes. Between two, SQLite tells
whether another connection has written (`PRAGMA data_version`), and then all is forgotten. What an operation learned or changed
is forgotten when it is undone, and everything when a group is lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from enum import StrEnum
from typing import Any, TypeVar, cast

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


class Known:
    """Used by one thread at a time."""

    def __init__(self) -> None:
        self._version = -1
        self._rows: defaultdict[Kind, dict[Hashable, object]] = defaultdict(dict)
        self._count = 0
        self._before: list[tuple[Kind, Hashable, object]] = []  # what the running operation has changed, as it was
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
        rows = self._rows[kind]
        self._before.append((kind, key, rows.get(key, MISSING)))
        rows[key] = value
        self._count += 1

    def owe(self, kind: Kind, key: Hashable, value: object) -> None:
        """It shall be written so, once for all operations of the group: by whoever takes what is `owed`."""
        self.put(kind, key, value)
        self._owed[kind, key] = None

    def owed(self, *kinds: Kind) -> list[Any]:
        """What is to be written now, as it stands; of these kinds, or all."""
        keys = [one for one in self._owed if not kinds or one[0] in kinds]
        for one in keys:
            del self._owed[one]
        return [self._rows[kind][key] for kind, key in keys]

    def drop(self, kind: Kind, key: Hashable) -> None:
        """It was written, and nobody says how it stands."""
        self._before.append((kind, key, MISSING))
        self._rows[kind].pop(key, None)

    def forget(self, kind: Kind) -> None:
        """All of them were written, perhaps."""
        self._before.extend((kind, key, MISSING) for key in self._rows.pop(kind, ()))

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
        """The operation was undone."""
        for kind, key, value in reversed(self._before):
            if isinstance(value, _Missing):
                self._rows[kind].pop(key, None)
                self._owed.pop((kind, key), None)  # what was not known was not owed either
            else:
                self._rows[kind][key] = value
        self._before.clear()
