"""A value that cannot be logged, formatted, compared, copied or pickled by accident (I6).

What this cannot do: Python's strings are immutable and are not wiped, so a revealed secret stays in memory until its
place is used again; and code that *means* to get at it, in this process, always can. Closed to others is the
process itself (`broker.process.harden`).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Never, final


@final
class Secret:
    """Holds one secret string. Only `reveal()` gives it back."""

    # A function that knows it, not the value: whatever walks attributes (inspect, debuggers, error collectors,
    # `gc.get_referents`) finds nothing to show.
    __slots__ = ("_told",)

    _told: Callable[[], str]

    def __init__(self, value: str) -> None:
        object.__setattr__(self, "_told", lambda: value)

    def reveal(self) -> str:
        """The secret itself. Call it at the last moment, and never into a name that lives on."""
        return self._told()

    def matches(self, other: Secret) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self._told().encode(), other._told().encode())

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        raise TypeError("compare secrets with matches()")

    __hash__ = None  # type: ignore[assignment]  # a secret must not become a key

    def __bool__(self) -> Never:
        raise TypeError("a Secret is neither true nor false; ask `is None`")

    def __setattr__(self, name: str, value: object) -> Never:
        raise TypeError("a Secret does not change")

    def __reduce__(self) -> Never:
        raise TypeError("a Secret cannot be pickled or copied")

    def __getstate__(self) -> Never:
        raise TypeError("a Secret has no state to give away")

    def __init_subclass__(cls) -> Never:
        raise TypeError("a Secret has no other forms")
