"""Issued secrets in a child's output, replaced while it streams.

A seat belt, not a wall: a child that wants to show a secret can write it in a form that nobody looks for.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

SHOWN_INSTEAD = b"***"
SHORTEST = 6  # bytes; anything shorter is in every other line of output, where it says nothing
LET_OUT = 3  # bytes of what may become a secret that a waiting reader is shown: half of the shortest
_WORD = 8
_LONG = 2 * _WORD - 1  # bytes that hold a whole aligned word wherever they begin
_ARMOR = re.compile(r"-----(BEGIN|END) [A-Z0-9 ]+-----")


@dataclass(frozen=True, kw_only=True, slots=True)
class Patterns:
    """What is looked for.

    `words`: the first word at each alignment of every long pattern. Text without one of them at its own aligned words
    has no long pattern in it, nor the first 15 bytes of one: this one look is what makes masking fast, however many
    patterns there are. `heads[n]`: the first n bytes of all that are longer than n.
    """

    short: tuple[bytes, ...] = ()
    long: tuple[bytes, ...] = ()
    words: frozenset[int] = frozenset()
    heads: tuple[frozenset[bytes], ...] = ()

    def maybe(self, text: bytes) -> bool:
        whole = len(text) // _WORD * _WORD
        return bool(self.words) and not self.words.isdisjoint(memoryview(text)[:whole].cast("Q"))

    def spans(self, text: bytes, *, maybe: bool) -> list[tuple[int, int]]:
        """From where to where a pattern is, also inside another; unsorted."""
        found = []
        for pattern in (*self.short, *self.long) if maybe else self.short:
            at = text.find(pattern)
            while at >= 0:
                found.append((at, at + len(pattern)))
                at = text.find(pattern, at + 1)
        return found

    def undecided(self, text: bytes, *, maybe: bool) -> int:
        """From where on the text is the beginning of a pattern that is not yet all there."""
        first = len(text)
        for length in range(min(_LONG - 1, len(text)), 0, -1):
            if text[-length:] in self.heads[length]:
                first = len(text) - length
                break
        for pattern in self.long if maybe else ():
            at = text.find(pattern[:_LONG], max(len(text) - len(pattern) + 1, 0))
            while 0 <= at < first:
                if pattern.startswith(text[at:]):
                    first = at
                at = text.find(pattern[:_LONG], at + 1)
        return first


class Secrets:
    """All that must not be shown. May grow while masks use it, from another thread."""

    def __init__(self) -> None:
        self.patterns = _compiled(())
        self._forms: set[bytes] = set()

    def add(self, secrets: Iterable[str]) -> int:
        """How many of them are too short to be looked for."""
        too_short = 0
        for secret in secrets:
            too_short += len(secret.encode()) < SHORTEST
            self._forms |= forms(secret)
        self.patterns = _compiled(self._forms)
        return too_short


class Mask:
    """One stream. What cannot be part of a secret leaves at once; held back is less than the longest pattern."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._held = b""
        self._covered = 0  # bytes at its beginning that belong to a secret seen in full
        self._shown = 0  # bytes at its beginning that were let out
        self._may_show = 0  # bytes at its beginning that may be
        self._in_secret = False  # what left last was the mask, and what follows it may belong to the same secret

    @property
    def waiting(self) -> bool:
        """There is something that `let_out` would give."""
        return max(self._covered, self._shown) < self._may_show

    def feed(self, data: bytes) -> bytes:
        text, patterns = self._held + data, self._secrets.patterns
        maybe = patterns.maybe(text)
        spans = _merged([(0, self._covered), *patterns.spans(text, maybe=maybe)])
        decided = patterns.undecided(text, maybe=maybe)
        masked = self._masked(text, spans, decided)
        self._covered = max([end - decided for begin, end in spans if begin <= decided < end], default=0)
        self._shown = max(self._shown - decided, 0)
        self._held = text[decided:]
        inside = [begin - decided for begin, _ in spans if begin > decided]  # one that is there, in one that may come
        self._may_show = min(LET_OUT, len(self._held), *inside)
        return masked

    def let_out(self) -> bytes:
        """For a reader who waits, as at a prompt: at most three bytes. Should a secret follow, its rest is masked."""
        begin, end = max(self._covered, self._shown), self._may_show
        if begin >= end:
            return b""
        self._shown, self._in_secret = end, False
        return self._held[begin:end]

    def end(self) -> bytes:
        """The rest: the beginning of what never became a secret."""
        text, self._held, patterns = self._held, b"", self._secrets.patterns
        spans = patterns.spans(text, maybe=patterns.maybe(text))
        return self._masked(text, _merged([(0, self._covered), *spans]), len(text))

    def _masked(self, text: bytes, spans: list[tuple[int, int]], decided: int) -> bytes:
        parts, at = [], self._shown
        for begin, end in spans:
            if end <= at or begin >= decided:
                continue
            if begin > at:
                parts.append(text[at:begin])
                self._in_secret = False
            if not self._in_secret:
                parts.append(SHOWN_INSTEAD)
            self._in_secret, at = True, min(end, decided)
        if at < decided:
            parts.append(text[at:decided])
            self._in_secret = False
        return b"".join(parts)


def forms(secret: str) -> set[bytes]:
    """The secret as programs write it: itself, its lines, percent-encoded, in JSON, in base64."""
    written = [secret, *_lines(secret), quote(secret), quote(secret, safe=""), quote_plus(secret)]
    written += [json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]]
    raw = secret.encode()
    encoded = [form for text in written for form in [text.encode()]] + [*_base64(raw), *base64.encodebytes(raw).split()]
    return {form for form in encoded if len(form) >= SHORTEST} if len(raw) >= SHORTEST else set()


def _lines(secret: str) -> list[str]:
    """Of a secret of several: terminals and logs break it up. A line that any text may have is not looked for."""
    lines = [line.strip() for line in secret.splitlines()]
    return [line for line in lines if any(sign.isalnum() for sign in line) and not _ARMOR.fullmatch(line)]


def _base64(raw: bytes) -> list[bytes]:
    """As part of something longer: what of it depends on the secret alone, at each of the three alignments."""
    found = []
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw)
        inner = encoded[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]
        found += [inner, inner.translate(bytes.maketrans(b"+/", b"-_"))]
    return found


def _compiled(forms: Iterable[bytes]) -> Patterns:
    every = sorted(set(forms))
    long = tuple(form for form in every if len(form) >= _LONG)
    words = (memoryview(form[at : at + _WORD]).cast("Q")[0] for form in long for at in range(_WORD))
    return Patterns(
        short=tuple(form for form in every if len(form) < _LONG),
        long=long,
        words=frozenset(words),
        heads=tuple(frozenset(form[:n] for form in every if len(form) > n) for n in range(_LONG)),
    )


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged
