"""A chain shows every change made behind its back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from broker.journal.chain import EMPTY, Entry, link, verify


def chain(*lengths: int) -> list[Entry]:
    """One chain per length, the later ones linked to the earlier."""
    entries: list[Entry] = []
    for number, length in enumerate(lengths, 1):
        for seq in range(length):
            prev = entries[-1].hash if entries else EMPTY
            body = f"{number}/{seq}"
            entries.append(Entry(chain=number, seq=seq, body=body, prev=prev, hash=link(prev, number, seq, body)))
    return entries


def test_an_honest_journal_has_no_problem() -> None:
    assert verify([]) == []
    assert verify(chain(3, 1, 4)) == []


def rehashed(entry: Entry, **changes: str | int) -> Entry:
    """As somebody who knows the algorithm would leave it."""
    changed = replace(entry, **changes)  # type: ignore[arg-type]  # the tests name real fields
    return replace(changed, hash=link(changed.prev, changed.chain, changed.seq, changed.body))


@pytest.mark.parametrize(
    ("tamper", "where", "what"),
    [
        (lambda e: [*e[:2], replace(e[2], body="other"), *e[3:]], "1/2", "text was changed"),
        (lambda e: [*e[:2], rehashed(e[2], body="other"), *e[3:]], "2/0", "does not follow"),
        (lambda e: [*e[:1], *e[2:]], "1/2", "records are missing"),
        (lambda e: [*e[:3], *e[4:]], "2/1", "records are missing"),
        (lambda e: e[1:], "1/1", "records are missing"),
        (lambda e: e[3:], "2/0", "does not follow"),
        (lambda e: [*e[:2], rehashed(e[2], seq=9), *e[3:]], "1/9", "records are missing"),
        (lambda e: [e[0], e[2], e[1], *e[3:]], "1/2", "does not follow"),
    ],
    ids=["text", "text and hash", "one out", "genesis out", "first out", "chain out", "renumbered", "swapped"],
)
def test_a_change_is_found_where_it_is(tamper: Callable[[list[Entry]], list[Entry]], where: str, what: str) -> None:
    problems = verify(tamper(chain(3, 3)))
    assert any(problem.startswith(f"record {where}:") and what in problem for problem in problems), problems


def test_position_is_part_of_the_hash() -> None:
    assert (
        len({link(EMPTY, 1, 2, "x"), link(EMPTY, 2, 1, "x"), link(EMPTY, 1, 2, "y"), link(b"1" * 32, 1, 2, "x")}) == 4
    )
