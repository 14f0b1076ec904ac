"""All SQL is in .sql files: named queries and numbered migrations, read once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from operator import itemgetter
from typing import Any

_HERE = files("broker.store.sqlite")
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_PARAMETER = re.compile(r":(\w+)")


class Query(str):
    """One statement. Written with `:name`, run with `?N`: sqlite3 binds a name for 0.25 µs, a number for a tenth of it."""

    __slots__ = ("names", "values")

    names: tuple[str, ...]  # in the order of their numbers
    values: Callable[[Mapping[str, Any]], tuple[Any, ...]]  # of a mapping with at least these names

    @staticmethod
    def of(text: str) -> Query:
        """A statement of ours: no colon stands in it but before a name."""
        names = tuple(dict.fromkeys(_PARAMETER.findall(text)))
        query = Query(_PARAMETER.sub(lambda found: f"?{names.index(found[1]) + 1}", text))
        query.names = names
        if len(names) > 1:
            query.values = itemgetter(*names)
        else:
            query.values = lambda params: tuple(params[name] for name in names)
        return query


def queries(area: str) -> Mapping[str, Query]:
    """The `-- name: x` sections of queries/<area>.sql by name."""
    _, *parts = _NAME.split((_HERE / "queries" / f"{area}.sql").read_text("utf-8"))
    return {name: Query.of(text.strip()) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def migrations() -> list[tuple[int, str]]:
    """(version, script) of migrations/NNNN_name.sql in order; versions count from 1 without a gap."""
    scripts = sorted((file.name, file) for file in (_HERE / "migrations").iterdir() if file.name.endswith(".sql"))
    found = [(int(name[:4]), file.read_text("utf-8")) for name, file in scripts]
    if [version for version, _ in found] != list(range(1, len(found) + 1)):
        raise AssertionError("migrations must be numbered 0001, 0002, … without a gap")
    return found
