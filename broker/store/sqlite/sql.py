"""All SQL is in .sql files: named queries and numbered migrations, read once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

_HERE = files("broker.store.sqlite")
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def queries(area: str) -> Mapping[str, str]:
    """The `-- name: x` sections of queries/<area>.sql by name."""
    _, *parts = _NAME.split((_HERE / "queries" / f"{area}.sql").read_text("utf-8"))
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def migrations() -> list[tuple[int, str]]:
    """(version, script) of migrations/NNNN_name.sql in order; versions count from 1 without a gap."""
    scripts = sorted((file.name, file) for file in (_HERE / "migrations").iterdir() if file.name.endswith(".sql"))
    found = [(int(name[:4]), file.read_text("utf-8")) for name, file in scripts]
    if [version for version, _ in found] != list(range(1, len(found) + 1)):
        raise AssertionError("migrations must be numbered 0001, 0002, … without a gap")
    return found
