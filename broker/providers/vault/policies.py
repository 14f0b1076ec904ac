"""The text of an ACL policy as path → capabilities, merged as the server merges it (each rule measured)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any, Never, TypeAlias

Rules: TypeAlias = Mapping[str, frozenset[str]]

DENY = frozenset({"deny"})
_ALL = {"create", "read", "update", "delete", "list"}
# The old word `policy` of a path, and what the server makes of it.
_OLD = {"deny": {"deny"}, "read": {"read", "list"}, "write": _ALL, "sudo": {*_ALL, "sudo"}}
_TOKEN = re.compile(
    r'\s+|\#[^\n]*|//[^\n]*|/\*.*?\*/|(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<word>[A-Za-z_][A-Za-z0-9_.-]*)'
    r"|(?P<number>[0-9]+)|(?P<mark>[{}\[\]=,])",
    re.DOTALL,
)


class Unreadable(Exception):
    """There is more in it than paths with capabilities. Text is constant but for a parameter's name."""


def parse(text: str) -> dict[str, frozenset[str]]:
    """HCL or JSON. Raises Unreadable: what is not understood is not guessed."""
    pairs = _from_json(text) if text.lstrip().startswith("{") else _Hcl(text).paths()
    return merged(pairs)


def merged(pairs: Iterable[tuple[str, frozenset[str]]]) -> dict[str, frozenset[str]]:
    """The same path twice gives both, in one policy as in several; a deny wins (measured)."""
    found: dict[str, frozenset[str]] = {}
    for path, rights in pairs:
        both = found.get(path, frozenset()) | rights
        found[path] = DENY if "deny" in both else both
    return found


def differences(wanted: Rules, held: Rules, *, more: bool = False) -> Iterator[str]:
    """Each as a line; `more`: it may give more. A deny that is not wanted takes away only."""
    for path in sorted(wanted.keys() | held.keys()):
        need, have = wanted.get(path, frozenset()), held.get(path, frozenset())
        if need - have:
            yield f"needs {' and '.join(sorted(need - have))} on {path}"
        if (extra := have - need - DENY) and not more:
            yield f"gives {' and '.join(sorted(extra))} on {path}, which the map does not need"


def covers(pattern: str, path: str) -> bool:
    """Is whatever `path` (perhaps a pattern too) stands for among what `pattern` stands for?"""
    return pattern == path or (pattern.endswith("*") and path.startswith(pattern[:-1]))


def meet(one: str, other: str) -> bool:
    """Is there a path that both patterns stand for? `+` is one segment, a last `*` any rest."""
    for left, right in zip_longest(one.split("/"), other.split("/")):
        if left is None or right is None:
            return False
        if left.endswith("*") or right.endswith("*"):
            here, there = left.rstrip("*"), right.rstrip("*")
            return (
                "+" in (left, right)
                or (left.endswith("*") and there.startswith(here))
                or (right.endswith("*") and here.startswith(there))
            )
        if left != right and "+" not in (left, right):
            return False
    return True


def _from_json(text: str) -> list[tuple[str, frozenset[str]]]:
    try:
        body = json.loads(text, object_pairs_hook=_once)
        blocks = body.get("path", {})
        return [
            pair
            for block in (blocks if isinstance(blocks, list) else [blocks])
            for path, said in block.items()
            for pair in [(path.removeprefix("/"), _rights(said))]
        ]
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise Unreadable("it is no policy in JSON") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise Unreadable("it names a key twice")
    return dict(pairs)


def _rights(said: Mapping[str, Any]) -> frozenset[str]:
    """Of a path's attributes. Parameters narrow a right in ways that are not judged here."""
    if unknown := sorted(set(said) - {"capabilities", "policy"}):
        raise Unreadable(f"it uses {unknown[0]}")
    old = said.get("policy", "")
    if old and old not in _OLD:
        raise Unreadable("it uses policy")
    return frozenset(said.get("capabilities", ())) | frozenset(_OLD.get(old, ()))


class _Hcl:
    """The little of HCL that policies are written in."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0

    def paths(self) -> Iterator[tuple[str, frozenset[str]]]:
        while (kind := self._peek()[0]) != "end":
            key = self._take(kind)
            if key == "name" and self._peek() == ("mark", "="):
                self._take("mark")
                self._take("string")
                continue
            if key != "path":
                self._lost()
            path = self._take("string").removeprefix("/")
            yield path, self._block()

    def _block(self) -> frozenset[str]:
        self._mark("{")
        found: frozenset[str] = frozenset()
        while self._peek() != ("mark", "}"):
            key = self._take(self._peek()[0])
            self._mark("=")
            said = {key: self._list() if self._peek() == ("mark", "[") else self._take("string")}
            found |= _rights(said)  # the same attribute twice gives both (measured)
            if self._peek() == ("mark", ","):
                self._mark(",")
        self._mark("}")
        return found

    def _list(self) -> list[str]:
        self._mark("[")
        found = []
        while self._peek() != ("mark", "]"):
            found.append(self._take("string"))
            if self._peek() != ("mark", "]"):
                self._mark(",")
        self._mark("]")
        return found

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _take(self, kind: str) -> str:
        held, text = self._peek()
        if held != kind or kind == "end":
            self._lost()
        self._at += 1
        return text

    def _mark(self, text: str) -> None:
        if self._peek() != ("mark", text):
            self._lost()
        self._at += 1

    def _lost(self) -> Never:
        before = [text for kind, text in self._tokens[max(0, self._at - 2) : self._at] if kind == "word"]
        raise Unreadable(f"it uses {before[-1]}" if before else "it has more than paths with capabilities")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise Unreadable("it has more than paths with capabilities")
        at = found.end()
        if found.lastgroup == "string":
            yield "string", _unquoted(found.group())
        elif found.lastgroup:
            yield found.lastgroup, found.group()


def _unquoted(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, str) or "${" in value:
        raise Unreadable("it has a text that is not plain")
    return value
