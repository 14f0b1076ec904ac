"""Templates in a provider's block: `{name}` fills a whole path segment, with a value that cannot leave it.

`${…}` is AWS's own spelling and is left alone. Values with `* + / ,` once became policy syntax
(GHSA-59w7-v8rr-pr4p), so both the place and the value are narrow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from broker.model import JsonValue
from broker.policy.language.document import Path

VALUE = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_VARIABLE = re.compile(r"(?<![^/:])\{([a-z][a-z0-9_]{0,31})\}(?![^/:])", re.ASCII)
_AWS_OWN = re.compile(r"\$\{[^{}]*\}", re.ASCII)


def variables(block: JsonValue) -> frozenset[str]:
    """Names of all variables used in a block."""
    return frozenset(name for _, text in _texts(block) for name in _VARIABLE.findall(text))


def mistakes(block: JsonValue) -> list[tuple[Path, str]]:
    """Every brace that is neither a variable in its place nor AWS's own."""
    found: list[tuple[Path, str]] = []
    for path, text in _texts(block):
        rest = _AWS_OWN.sub("", _VARIABLE.sub("", text))
        if "{" in rest or "}" in rest:
            found.append((path, "a variable is {name}, and fills a whole segment between / or :, or the whole text"))
    for path, name in _names(block):
        if "{" in name or "}" in name:
            found.append((path, "variables are for values, not for keys"))
    return found


def fill(block: JsonValue, values: Mapping[str, str]) -> JsonValue:
    """A new block with every variable replaced that `values` holds."""
    if isinstance(block, str):
        return _VARIABLE.sub(lambda match: values.get(match[1], match[0]), block) if "{" in block else block
    if isinstance(block, dict | Mapping):  # a dict in nearly all cases, which is told much faster
        return {key: fill(value, values) for key, value in block.items()}
    if isinstance(block, list):
        return [fill(item, values) for item in block]
    return block


def _texts(value: JsonValue, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every text in the block; its depth is bounded by the document's."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, (*path, number))


def _names(value: JsonValue, path: Path = ()) -> Iterator[tuple[Path, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield (*path, key), key
            yield from _names(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _names(item, (*path, number))
