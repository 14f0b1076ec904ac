"""`python -m tests.counts [--update]`: the figures of today, and how they differ from those that are expected."""

from __future__ import annotations

import sys

from tests.counts import figures
from tests.counts.operations import measured


def main(arguments: list[str]) -> int:
    """0: as expected, or written. 1: something differs."""
    found, expected = measured(), figures.read()
    print(figures.summary(found))
    changed = {
        name: rows
        for name in dict.fromkeys([*found, *expected])
        if (rows := figures.differences(expected, found, name))
    }
    for name, rows in changed.items():
        print(figures.table(name, rows))
    if "--update" in arguments:
        figures.write(found)
        print(f"\nwritten to {figures.FILE}")
        return 0
    print("\n" + (f"If this is as it should be: {figures.AGAIN}" if changed else "All as expected."))
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
