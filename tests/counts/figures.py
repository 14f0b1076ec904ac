"""What is expected, as data in `expected.toml`, and how what is found differs from it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeAlias

FILE = Path(__file__).with_name("expected.toml")
HEAD = """\
# What one operation costs, in counts that no machine changes. Written by `make counts UPDATE=1`; read CONTRIBUTING.md.
#   7        exactly 7: fewer fails as well, so that what was won is written down
#   "<= 7"   at most 7: how operations fall together under load is not the same twice
#   "~ 700"  within 5 %: a helper function more or less is nobody's business
# store       statements that SQLite ran, by kind; `repeated`: with the same values as before in the same operation;
#             operations of the store (writes, reads), commits
# disk        pages written to the write-ahead log; journal records, and the bytes of their bodies
# loop        asyncio tasks made; hand-overs between threads, in either direction
# python      calls of the broker's own functions, and objects made of its own classes
# memory      blocks that the interpreter holds, more than before
# provider    calls, and connections opened
# statements  by the name in broker/store/sqlite/queries, in the order of their first run
"""
AGAIN = "make counts UPDATE=1  writes the new figures to tests/counts/expected.toml; commit that with the change"
LOOSE = 0.05  # of "~"
LEAST = 3  # calls by which "~" may differ in any case


class Kind(Enum):
    """How a figure is compared."""

    EXACT = ""
    AT_MOST = "<= "
    ABOUT = "~ "


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, and how it is compared."""

    number: int
    kind: Kind = Kind.EXACT
    found: int | None = None  # where the number is a bound

    @property
    def measured(self) -> int:
        return self.number if self.found is None else self.found

    def __str__(self) -> str:
        return f"{self.kind.value}{self.number}"

    def fits(self, found: int) -> bool:
        if self.kind is Kind.AT_MOST:
            return found <= self.number
        slack = max(LEAST, self.number * LOOSE) if self.kind is Kind.ABOUT else 0
        return abs(found - self.number) <= slack


Section: TypeAlias = Mapping[str, Figure]
Operation: TypeAlias = Mapping[str, Section]  # by section
Figures: TypeAlias = Mapping[str, Operation]  # by operation
NOTHING = Figure(0)


def read(path: Path = FILE) -> Figures:
    """No file: nothing is expected."""
    if not path.exists():
        return {}
    raw = tomllib.loads(path.read_text("utf-8"))
    return {
        operation: {section: {name: _figure(told) for name, told in held.items()} for section, held in sections.items()}
        for operation, sections in raw.items()
    }


def _figure(told: int | str) -> Figure:
    if isinstance(told, int):
        return Figure(told)
    for kind in (Kind.AT_MOST, Kind.ABOUT):
        if told.startswith(kind.value):
            return Figure(int(told.removeprefix(kind.value)), kind)
    raise ValueError(f"{told!r} is no figure")


def write(figures: Figures, path: Path = FILE) -> None:
    path.write_text("\n".join([HEAD, *_lines(figures)]), "utf-8")


def _lines(figures: Figures) -> Iterator[str]:
    for operation, sections in figures.items():
        yield f"[{operation}]"
        for section, held in sections.items():
            told = ", ".join(f"{_key(name)} = {_value(figure)}" for name, figure in held.items())
            if section != "statements":
                yield f"{section} = {{{told}}}"
        if "statements" in sections:
            yield f"[{operation}.statements]"
            yield from (f"{_key(name)} = {_value(figure)}" for name, figure in sections["statements"].items())
        yield ""


def _key(name: str) -> str:
    return name if name.isidentifier() else f'"{name}"'


def _value(figure: Figure) -> str:
    return str(figure.number) if figure.kind is Kind.EXACT else f'"{figure}"'


Row: TypeAlias = tuple[str, str, str, str]  # section, name, expected, found


def differences(expected: Figures, found: Figures, operation: str) -> list[Row]:
    """What does not fit in this operation."""
    want, got = expected.get(operation, {}), found.get(operation, {})
    rows = []
    for section in dict.fromkeys([*got, *want]):
        held, seen = want.get(section, {}), got.get(section, {})
        for name in dict.fromkeys([*seen, *held]):
            figure, number = held.get(name, NOTHING), seen.get(name, NOTHING).measured
            if not figure.fits(number):
                rows.append((section, name, str(figure), str(number)))
    return rows


def table(operation: str, rows: Iterable[Row]) -> str:
    """For whoever has changed something."""
    return _aligned([("", operation, "expected", "found"), *rows], numbers=2)


SHOWN = (
    ("store", "statements"),
    ("store", "repeated"),
    ("store", "commits"),
    ("store", "reads"),
    ("disk", "pages"),
    ("disk", "bytes"),
    ("loop", "tasks"),
    ("loop", "hops"),
    ("python", "calls"),
    ("python", "objects"),
    ("memory", "blocks"),
)


def summary(found: Figures) -> str:
    """A line for each operation."""
    rows = [("", *(name for _, name in SHOWN), "provider")]
    for operation, sections in found.items():
        numbers = [sections.get(section, {}).get(name) for section, name in SHOWN]
        calls = ", ".join(f"{figure.measured} {name}" for name, figure in sections.get("provider", {}).items())
        rows.append((operation, *("" if one is None else str(one.measured) for one in numbers), calls))
    return _aligned(rows, numbers=1)


def _aligned(rows: Sequence[Sequence[str]], *, numbers: int) -> str:
    """`numbers`: the first column of those that stand to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if numbers <= at < len(row) - (numbers == 1) else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
