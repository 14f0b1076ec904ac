"""Inputs that the project holds anyway: fixtures, examples, and what the docs show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def fenced(kind: str) -> Iterator[bytes]:
    """Every block of this language in the docs."""
    for page in sorted((ROOT / "docs").glob("*.md")):
        for found, text in _FENCE.findall(page.read_text()):
            if found == kind:
                yield text.encode()


def files(folder: Path, pattern: str) -> Iterator[bytes]:
    """The contents of all that match, below the folder."""
    for path in sorted(folder.rglob(pattern)):
        yield path.read_bytes()
