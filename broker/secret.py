"""A value that cannot be logged, formatted, compared or pickled by accident (I6)."""

from __future__ import annotations

import hmac
from typing import Never


class Secret:
    """Holds one secret string. Only `reveal()` gives it back."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself. Call it at the last moment, and never into a name that lives on."""
        return self._value

    def matches(self, other: Secret) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        raise TypeError("compare secrets with matches()")

    __hash__ = None  # type: ignore[assignment]  # a secret must not become a key

    def __reduce__(self) -> Never:
        raise TypeError("a Secret cannot be pickled or copied")
