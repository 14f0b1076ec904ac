"""Mutations that keep a structure: bytes thrown at YAML are nearly always a mistake of spelling, and nothing else is read."""

from __future__ import annotations

import re
from random import Random

_WORD = re.compile(rb"[^\s,:\[\]{}\"']+")


def lines(data: bytes, rng: Random) -> bytes:
    """Move, repeat, drop, indent or join lines; or exchange two words."""
    rows = data.split(b"\n")
    at, other = rng.randrange(len(rows)), rng.randrange(len(rows))
    match rng.randrange(7):
        case 0:
            del rows[at]
        case 1:
            rows.insert(at, rows[other])
        case 2:
            rows[at], rows[other] = rows[other], rows[at]
        case 3:
            indent = rng.choice((b" ", b"  ", b"    ", b"- "))
            rows[at] = indent + rows[at]
        case 4:
            rows[at] = rows[at][rng.randrange(1, 4) :]
        case 5:
            first, last = sorted((at, other))
            rows[first:first] = rows[first : last + 1]
        case _:
            return words(data, rng)
    return b"\n".join(rows)


def words(data: bytes, rng: Random) -> bytes:
    """One word in another's place."""
    found = list(_WORD.finditer(data))
    if not found:
        return data
    at, other = rng.choice(found), rng.choice(found)
    return data[: at.start()] + other[0] + data[at.end() :]
