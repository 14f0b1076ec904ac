"""Certificate patterns: `spiffe://domain/literal/{capture}`, whole segments only, and an index over them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

SEGMENT = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,255}", re.ASCII)  # SPIFFE-ID 2.2; no dot segments
CAPTURE = re.compile(r"\{([a-z][a-z0-9_]{0,31})\}", re.ASCII)
TRUST_DOMAIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,254}", re.ASCII)
BINDING = ("workflow", "run", "step")  # captures with these names must equal what the step claims
_MAX_ID = 2048  # bytes, SPIFFE-ID 2.3


@dataclass(frozen=True, slots=True)
class Capture:
    """A segment that stands for any text, under a name; `*` in a `never` pattern has the name ""."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pattern:
    """A parsed pattern."""

    text: str
    trust_domain: str
    segments: tuple[str | Capture, ...]

    @property
    def captures(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(segment.name for segment in self.segments if isinstance(segment, Capture))

    def overlaps(self, other: Pattern, possible: Callable[[str, str], bool]) -> bool:
        """Could one certificate match both? `possible(capture, value)` says which values this one's captures take."""
        if self.trust_domain != other.trust_domain or len(self.segments) != len(other.segments):
            return False
        for mine, theirs in zip(self.segments, other.segments, strict=True):
            if isinstance(theirs, Capture):
                continue
            if mine != theirs and not (isinstance(mine, Capture) and possible(mine.name, theirs)):
                return False
        return True


def parse_pattern(
    text: str, *, trust_domain: str, federates_with: Collection[str] = (), wildcard: bool = False
) -> Pattern:
    """Read a workload's pattern, or with `wildcard` a `never` pattern whose open segments are `*`. Raises ValueError.

    `trust_domain`: the map's own; "" = any.
    """
    scheme, domain, parts = _split(text)
    if scheme != "spiffe" or not parts:
        raise ValueError("expected spiffe://trust-domain/segment/…")
    if not TRUST_DOMAIN.fullmatch(domain) or (trust_domain and domain not in (trust_domain, *federates_with)):
        others = ", nor in federates_with" if federates_with else ""
        raise ValueError(f"its trust domain is not this map's, {trust_domain!r}{others}")
    segments = tuple(_segment(part, wildcard=wildcard) for part in parts)
    names = [segment.name for segment in segments if isinstance(segment, Capture) and segment.name]
    if len(set(names)) != len(names):
        raise ValueError("a capture is named twice")
    return Pattern(text=text, trust_domain=domain, segments=segments)


def _segment(part: str, *, wildcard: bool) -> str | Capture:
    capture = CAPTURE.fullmatch(part)
    if wildcard and part == "*":
        return Capture("")
    if capture and not wildcard:
        return Capture(capture[1])
    if not SEGMENT.fullmatch(part):
        open_segment = "*" if wildcard else "{name}"
        raise ValueError(f"a segment is {open_segment} as a whole, or of A-Z a-z 0-9 . _ - and no dot segment")
    return part


def _split(text: str) -> tuple[str, str, list[str]]:
    scheme, _, rest = text.partition("://")
    domain, slash, path = rest.partition("/")
    return scheme, domain, path.split("/") if slash else []


@dataclass(slots=True)
class _Node(Generic[T]):
    literals: dict[str, _Node[T]] = field(default_factory=dict)
    open: _Node[T] | None = None
    ends: list[tuple[Pattern, T]] = field(default_factory=list)


class PatternIndex(Generic[T]):
    """Finds the patterns that match an id by walking its segments, however many patterns there are.

    A pattern is of one trust domain, and matches ids of that one only.
    """

    def __init__(self) -> None:
        self._roots: dict[str, _Node[T]] = {}  # by trust domain

    def add(self, pattern: Pattern, value: T) -> None:
        """Index one pattern."""
        node = self._roots.setdefault(pattern.trust_domain, _Node())
        for segment in pattern.segments:
            if isinstance(segment, Capture):
                node.open = node.open or _Node()
                node = node.open
            else:
                node = node.literals.setdefault(segment, _Node())
        node.ends.append((pattern, value))

    def match(self, spiffe_id: str) -> Iterator[tuple[T, Mapping[str, str]]]:
        """Every value whose pattern matches, with what its captures took; nothing for a malformed id."""
        scheme, domain, parts = _split(spiffe_id)
        if scheme != "spiffe" or domain not in self._roots or len(spiffe_id) > _MAX_ID:
            return
        if not all(SEGMENT.fullmatch(part) for part in parts):
            return
        nodes = [self._roots[domain]]
        for part in parts:
            steps = ((node.literals.get(part), node.open) for node in nodes)
            nodes = [node for pair in steps for node in pair if node is not None]
        for node in nodes:
            for pattern, value in node.ends:
                taken = zip(pattern.segments, parts, strict=True)
                yield value, {segment.name: part for segment, part in taken if isinstance(segment, Capture)}

    def overlapping(self, pattern: Pattern) -> Iterator[T]:
        """Every value whose pattern could match an id that this one matches, too."""
        nodes = [self._roots[pattern.trust_domain]] if pattern.trust_domain in self._roots else []
        for segment in pattern.segments:
            found: list[_Node[T]] = []
            for node in nodes:
                if isinstance(segment, Capture):
                    found += node.literals.values()
                elif segment in node.literals:
                    found.append(node.literals[segment])
                if node.open is not None:
                    found.append(node.open)
            nodes = found
        for node in nodes:
            for _, value in node.ends:
                yield value
