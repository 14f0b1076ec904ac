"""Templates: `${scope:what}` is what `render` makes of it, `$$` is a `$`, any other `$` is itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from stepcred._credentials import Credential
from stepcred._outlets._errors import Unusable
from stepcred._outlets._formats import render

MOST = 1 << 20  # bytes of a template
# A scope's name may have colons, the part of it has none: the last one divides.
_MARK = re.compile(r"\$(?:(?P<dollar>\$)|\{(?:(?P<scope>[A-Za-z0-9][A-Za-z0-9._:@+=-]*):(?P<what>[^{}:$\s]+)\})?)")


def read(source: str) -> str:
    """The template in this file. Raises Unusable, also for a stray `${`, and without reading all of a long one."""
    try:
        with Path(source).open("rb") as file:
            template = file.read(MOST + 1).decode()
    except OSError as error:
        raise Unusable(f"cannot read {source}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Unusable(f"{source} is not UTF-8") from None
    if len(template) > MOST:
        raise Unusable(f"{source} is longer than 1 MiB")
    try:
        scopes_of(template)
    except Unusable as problem:
        raise Unusable(f"{source}, {problem}") from None
    return template


def fill(template: str, credentials: Mapping[str, Credential]) -> bytes:
    """Raises Unusable, with the line, for a scope that is not there, a part that it has not, and a stray `${`."""
    filled: list[bytes] = []
    end = 0
    for mark in _MARK.finditer(template):
        filled += [template[end : mark.start()].encode(), _value(mark, credentials)]
        end = mark.end()
    return b"".join([*filled, template[end:].encode()])


def scopes_of(template: str) -> list[str]:
    """The scopes that it names, in order, once each. Raises Unusable for a stray `${`."""
    marks = [mark for mark in _MARK.finditer(template) if not mark["dollar"]]
    for mark in marks:
        _check(mark)
    return list(dict.fromkeys(mark["scope"] for mark in marks if mark["scope"]))


def _check(mark: re.Match[str]) -> None:
    if not mark["scope"]:
        raise Unusable(f"line {_line(mark)}: ${{ is not followed by scope:what}}; write $${{ for a plain one")


def _line(mark: re.Match[str]) -> int:
    return mark.string.count("\n", 0, mark.start()) + 1


def _value(mark: re.Match[str], credentials: Mapping[str, Credential]) -> bytes:
    if mark["dollar"]:
        return b"$"
    _check(mark)
    line = _line(mark)
    if mark["scope"] not in credentials:
        raise Unusable(f"line {line}: no credential of scope {mark['scope']} is here")
    try:
        return render(credentials[mark["scope"]], mark["what"])
    except Unusable as problem:
        raise Unusable(f"line {line}: {problem}") from None
