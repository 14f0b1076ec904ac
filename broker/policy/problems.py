"""What is wrong with a scope map, and where."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,79}", re.ASCII)
_NAMED = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,31}", re.ASCII)
_COMPARED = 500  # names; a hint must not cost more than the map
_NOT_TEXT = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Problem:
    """One mistake. Line and column count from 1."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class ScopeMapError(Exception):
    """A map that is not loaded; `problems` holds every mistake found, in order of position."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.problems)))


def quote(text: str) -> str:
    """Text as a YAML scalar in a fix: safe to paste and to print.

    What agents say ends in fixes and on terminals: control characters and YAML syntax are escaped.
    """
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT:
        return text
    return json.dumps(text if len(text) <= 300 else text[:300] + "…")  # noqa: PLR2004  # a screenful


def show(text: str) -> str:
    """Text in a message: in quotes, bounded, without anything that a terminal would obey."""
    return ascii(text if len(text) <= 80 else text[:80] + "...")  # noqa: PLR2004  # a line


def named(word: str) -> str:
    """A word of the file after a blank, when it looks like a name; else nothing, since it may be a line of a key file."""
    return f" {show(word)}" if _NAMED.fullmatch(word) else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint such as "; did you mean 'tier'?", or nothing."""
    close = difflib.get_close_matches(word[:64], list(islice(known, _COMPARED)), n=1, cutoff=0.6)
    return f"; did you mean {show(close[0])}?" if close else ""
