"""YAML text → plain values with positions.

Only the part of YAML that reads the same to everyone: no anchors, aliases or merge keys (alias bombs), no
tags, no duplicate keys (a second one would silently win), no second document, bounded size and depth.
Built from the parser's events, without recursion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from broker.model import JsonValue
from broker.policy.language.files import MAX_BYTES
from broker.policy.problems import Problem, ScopeMapError, named

ENOUGH = 500  # mistakes of a file
MAX_DEPTH = 32  # containers in containers; an AWS condition needs 8

Path: TypeAlias = tuple[str | int, ...]


class Mark(NamedTuple):
    """A place in a file. Line and column count from 1."""

    file: str
    line: int
    column: int


_START = Mark("", 1, 1)
_CONSTANTS = {"": None, "~": None, "true": True, "false": False}
_CONSTANTS |= dict.fromkeys(("null", "Null", "NULL"))
_CONSTANTS |= {"True": True, "TRUE": True, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_FLOAT = re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{0,18}", re.ASCII)
_BIDI = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # makes text read as what it is not (CVE-2021-42574)


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """The data, and where each key and value stands."""

    file: str
    data: JsonValue
    keys: Mapping[Path, Mark]
    values: Mapping[Path, Mark]

    def mark(self, path: Path, *, key: bool = False) -> Mark:
        """Position of a value (or of its key), or of the nearest thing around it."""
        while True:
            places = (self.keys, self.values) if key else (self.values, self.keys)
            for place in places:
                if path in place:
                    return place[path]
            if not path:
                return Mark(self.file, 1, 1)
            path, key = path[:-1], True

    def problem(self, path: Path, message: str, *, key: bool = False) -> Problem:
        """A mistake at this place."""
        mark = self.mark(path, key=key)
        return Problem(file=mark.file, line=mark.line, column=mark.column, message=message)


@dataclass(slots=True)
class _Open:
    """A container whose end has not come yet."""

    path: Path
    items: dict[str, Any] | list[Any]
    key: str | None = None  # read, waiting for its value
    skip: bool = False  # the value belongs to a key that is not kept


@dataclass(slots=True)
class _Builder:
    file: str
    problems: list[Problem] = field(default_factory=list)
    data: JsonValue = None
    documents: int = 0
    anchored: bool = False
    last: Mark = field(default=_START)  # of the latest event
    keys: dict[Path, Mark] = field(default_factory=dict)
    values: dict[Path, Mark] = field(default_factory=dict)
    stack: list[_Open] = field(default_factory=list)

    def complain(self, mark: Mark, message: str) -> None:
        self.problems.append(Problem(file=self.file, line=mark.line, column=mark.column, message=message))
        if len(self.problems) > ENOUGH:
            raise ScopeMapError(self.problems)

    def take(self, event: Any) -> None:
        kind = type(event).__name__
        mark = Mark(self.file, event.start_mark.line + 1, event.start_mark.column + 1)
        self.last = mark
        if kind == "DocumentStartEvent":
            self.documents += 1
            if self.documents > 1:
                self.complain(mark, "a second document; one file holds one map")
            if event.version or event.tags:
                self.complain(mark, "YAML directives are not part of the language")
        elif self.documents == 1:
            self._node(kind, event, mark)

    def _node(self, kind: str, event: Any, mark: Mark) -> None:
        if kind in ("MappingEndEvent", "SequenceEndEvent"):
            self.stack.pop()
            return
        if kind not in ("ScalarEvent", "AliasEvent", "MappingStartEvent", "SequenceStartEvent"):
            return
        if (kind == "AliasEvent" or event.anchor is not None) and not self.anchored:
            self.anchored = True  # once is enough: a bomb has a thousand
            self.complain(mark, "anchors and aliases are not part of the language; write the value out")
        if kind != "AliasEvent" and event.tag is not None:
            self.complain(mark, "tags are not part of the language")
        if kind == "ScalarEvent":
            self._scalar(event, mark)
        elif kind == "AliasEvent":
            self._place(None, mark)
        else:
            self._open(kind, mark)

    def _scalar(self, event: Any, mark: Mark) -> None:
        value = _resolve(event.value) if event.style is None else event.value
        top = self.stack[-1] if self.stack else None
        if top is None or isinstance(top.items, list) or top.key is not None:
            self._place(value, mark)
            return
        top.key, top.skip = str(event.value), True
        if not isinstance(value, str):
            self.complain(mark, "a key must be text; put it in quotes")
        elif value in top.items:
            first = self.keys[*top.path, value].line
            self.complain(mark, f"duplicate key{named(value)}; the first is in line {first}")
        else:
            top.skip = False
            self.keys[*top.path, value] = mark

    def _open(self, kind: str, mark: Mark) -> None:
        items: dict[str, Any] | list[Any] = {} if kind == "MappingStartEvent" else []
        if self.stack and isinstance(self.stack[-1].items, dict) and self.stack[-1].key is None:
            self.complain(mark, "a key must be text")
            self.stack[-1].key, self.stack[-1].skip = "", True
            self.stack.append(_Open(path=("?",), items=items))  # the key's own inside: built, and dropped
            return
        path = self._place(items, mark)
        self.stack.append(_Open(path=path, items=items))
        if len(self.stack) > MAX_DEPTH:
            self.complain(mark, f"nested deeper than {MAX_DEPTH}")
            raise ScopeMapError(self.problems)

    def _place(self, value: JsonValue, mark: Mark) -> Path:
        """Put a value where it belongs; returns its path."""
        if not self.stack:
            self.data = value
            self.values[()] = mark
            return ()
        top = self.stack[-1]
        if isinstance(top.items, list):
            path: Path = (*top.path, len(top.items))
            top.items.append(value)
        else:
            path = (*top.path, top.key or "")
            if not top.skip:
                top.items[top.key or ""] = value
            skipped, top.key, top.skip = top.skip, None, False
            if skipped:
                return path
        self.values[path] = mark
        return path


def _resolve(text: str) -> JsonValue:
    """A plain scalar's value. What looks like a date stays text; `no` and `on` are text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def read_document(raw: bytes | str, file: str) -> Document:
    """Read one map's text. Raises ScopeMapError with every mistake of spelling."""
    text = _decode(raw, file)
    builder = _Builder(file=file)
    try:
        for event in _events(text):
            builder.take(event)
    except YAMLError as error:
        builder.problems.append(_syntax_problem(error, text, file))
    except (ValueError, LookupError, AttributeError, TypeError, AssertionError, RecursionError, NotImplementedError):
        # ruamel's scanner lets some through, for example chr() of an escape beyond Unicode.
        builder.complain(builder.last, "not readable as YAML")
    if builder.problems:
        raise ScopeMapError(builder.problems)
    return Document(file=file, data=builder.data, keys=builder.keys, values=builder.values)


def _events(text: str) -> Iterator[Any]:
    yield from YAML(typ="safe", pure=True).parse(text)


def _decode(raw: bytes | str, file: str) -> str:
    """Bounded UTF-8 without invisible direction marks."""
    size = len(raw)
    text = ""
    problem: tuple[int, str] | None = None
    if size > MAX_BYTES:
        raise ScopeMapError([Problem(file=file, line=1, column=1, message=f"larger than {MAX_BYTES} bytes")])
    if isinstance(raw, str):
        text = raw
    else:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            text = raw[: error.start].decode("utf-8", "replace")
            problem = (len(text), "not UTF-8")
    if problem is None and (match := _BIDI.search(text)):
        problem = (match.start(), "an invisible character that changes the direction of text")
    if problem is not None:
        line, column = _position(text, problem[0])
        raise ScopeMapError([Problem(file=file, line=line, column=column, message=problem[1])])
    return text


def _position(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def _syntax_problem(error: YAMLError, text: str, file: str) -> Problem:
    """The parser's own words, in one line; they quote at most single characters of the file."""
    line, column, message = 1, 1, "not readable as YAML"
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        if mark is not None:
            line, column = mark.line + 1, mark.column + 1
        words = str(error.problem or error.context or "").strip()
        message = "indent with blanks, not with a tab" if "'\\t'" in words else f"not readable as YAML: {words}"
    elif isinstance(offset := getattr(error, "position", None), int):
        line, column = _position(text, offset)
        message = "a control character"
    return Problem(file=file, line=line, column=column, message=message)
