"""The journal's records for offline commands: from a broker's database, or from what `audit export` wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.console import Console

from broker.cli.options import fail
from broker.errors import StoreError, unreadable
from broker.journal.chain import Entry
from broker.journal.records import Kind
from broker.model import JsonValue
from broker.policy.problems import show
from broker.policy.usage.reading import instant
from broker.store.sqlite import OfflineStore, open_readonly

Record: TypeAlias = Mapping[str, JsonValue]

JournalFile = Annotated[
    Path,
    typer.Option(
        "--journal", metavar="FILE", help="The broker's database, or what `stepcred-broker audit export` wrote."
    ),
]

MAX_LINE = 1 << 20  # bytes; a record is a few hundred
_SQLITE = b"SQLite format 3\0"
_EVERY = 5000  # records between two words about how far it is
_COUNTED_WITHIN = timedelta(hours=1)  # a storm's number is written when its minute is over, and the disk takes it


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A refusal by its reference."""

    record: Record
    more: int | None = None  # further refusals that were told this reference; None: no number is in the journal


def records(path: Path) -> Iterator[Record]:
    """All of them in order, page by page. Ends the command when the file is neither, or damaged."""
    if not path.is_file():
        fail(os.EX_CONFIG, f"{path}: no such file")
    try:
        with path.open("rb") as file:
            is_database = file.read(len(_SQLITE)) == _SQLITE
        yield from _of_database(path) if is_database else _of_export(path)
    except StoreError as error:
        fail(os.EX_CONFIG, str(error))
    except OSError as error:
        fail(os.EX_CONFIG, f"{path} {unreadable(error)}")


def _of_database(path: Path, after: tuple[int, int] | None = None) -> Iterator[Record]:
    """A snapshot for each page: nothing is ever changed in a journal, and a long one keeps the daemon from tidying up."""
    with open_readonly(path) as store:
        while page := _page(store, after):
            yield from (json.loads(entry.body) for entry in page)
            after = (page[-1].chain, page[-1].seq)


def _page(store: OfflineStore, after: tuple[int, int] | None) -> list[Entry]:
    return store.read(lambda tx: tx.journal(after=after))


def _of_export(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE):
            number += 1
            try:
                record = json.loads(line)["record"]
            except (ValueError, LookupError, TypeError, RecursionError):
                record = None
            if not isinstance(record, dict):
                fail(os.EX_CONFIG, f"{path}:{number}: neither a broker's database nor a line of `audit export`")
            yield record


def watched(found: Iterator[Record]) -> Iterator[Record]:
    """The same; says on a terminal how far it is."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from found
        return
    with console.status("reading the journal") as status:
        for number, record in enumerate(found, start=1):
            if number % _EVERY == 0:
                status.update(f"reading the journal: {number:,} records, {str(record.get('at', ''))[:10]}")
            yield record


def find_denial(path: Path, reference: str) -> Found:
    """Ends the command when there is none."""
    if not path.is_file():
        fail(os.EX_CONFIG, f"{path}: no such file")
    seen = _denials(path, reference)
    first = next(seen, None)
    if first is None:
        fail(1, f"no denial {show(reference)} in {path}")
    if first.get("kind") == Kind.DENIALS_COUNTED.value:
        return Found(record=first, more=_count(first))
    if not _data(first).get("aggregate"):
        return Found(record=first)
    counted = next((one for one in seen if one.get("kind") == Kind.DENIALS_COUNTED.value), None)
    return Found(record=first, more=_count(counted) - 1 if counted else None)


def _denials(path: Path, reference: str) -> Iterator[Record]:
    """The records that carry this reference."""
    with path.open("rb") as file:
        is_database = file.read(len(_SQLITE)) == _SQLITE
    if not is_database:
        yield from (record for record in records(path) if record.get("reference_id") == reference)
        return
    try:
        with open_readonly(path) as store:
            entry = store.read(lambda tx: tx.denial(reference))
        if entry is None:
            return
        first = json.loads(entry.body)
        yield first
        latest = instant(first.get("at"))
        for record in _of_database(path, after=(entry.chain, entry.seq)):
            at = instant(record.get("at"))
            if at is None or latest is None or at - latest > _COUNTED_WITHIN:
                return
            if record.get("reference_id") == reference:
                yield record
    except StoreError as error:
        fail(os.EX_CONFIG, str(error))


def _data(record: Record) -> Mapping[str, JsonValue]:
    data = record.get("data")
    return data if isinstance(data, dict) else {}


def _count(record: Record) -> int:
    count = _data(record).get("count")
    return count if isinstance(count, int) else 0
