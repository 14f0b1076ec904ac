"""What a target is, and how the bytes of one become well-formed values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Check: TypeAlias = Callable[[bytes], None]  # raises whatever must not happen
Mutate: TypeAlias = Callable[[bytes, Random], bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One reader of foreign bytes, with what must hold whatever they are."""

    ready: Callable[[Path], AbstractContextManager[Check]]  # given an empty folder
    seeds: Callable[[], Iterable[bytes]]  # good inputs, and bad ones that were thought of
    words: Sequence[bytes] = ()  # for the dictionary
    mutate: Mutate | None = None  # knows the input's structure; every other mutation is libFuzzer's own
    max_bytes: int = 4096
    mutants: Mapping[str, Callable[[], AbstractContextManager[object]]] = field(default_factory=dict)


class Draw:
    """Bytes as a row of choices. When they run out, every choice is the first one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """At most so many bytes."""
        found = self._data[self._at : self._at + count]
        self._at += len(found)
        return found

    def number(self, below: int) -> int:
        """From 0, below at most 256."""
        return next(iter(self.take(1)), 0) % below

    def wide(self) -> int:
        """A signed 64-bit number, of as few bytes as it takes: extremes are as likely as small ones."""
        size = (0, 1, 2, 4, 8, 8)[self.number(6)]
        return int.from_bytes(self.take(size).ljust(size, b"\0"), "big", signed=True)

    def choose(self, options: Sequence[T]) -> T:
        return options[self.number(len(options))]

    def text(self, *, surrogates: bool = False) -> str:
        """Up to 255 bytes of UTF-8; what is none of it replaced, or a lone surrogate as JSON can hold one."""
        return self.take(self.number(256)).decode("utf-8", "surrogateescape" if surrogates else "replace")
