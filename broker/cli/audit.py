"""`stepcred-broker audit`: read the journal without the daemon, or beside it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.options import count
from broker.errors import ConfigError
from broker.journal import anchor
from broker.journal.anchor import Anchor
from broker.journal.chain import Entry, verify
from broker.store.anchoring import misfit
from broker.store.base import Tx, tail
from broker.store.sqlite import open_readonly

app = typer.Typer(no_args_is_help=True, help="Read the journal offline: every decision and every change of state.")

_Database = Annotated[
    Path,
    typer.Option("--database", envvar="STEPCRED_BROKER_STORE__PATH", metavar="FILE", help="The daemon's database."),
]


@app.command("verify")
def verify_journal(
    database: _Database,
    anchor_file: Annotated[
        Path | None,
        typer.Option("--anchor", metavar="FILE", help="Also: does it hold the head that was noted in the anchor file?"),
    ] = None,
) -> None:
    """Follow the hash chains from the first record to the last. Exit code 1 when something was changed or taken out."""
    seen = _Seen()
    held = _anchor(anchor_file) if anchor_file else None
    with open_readonly(database) as store:
        problems = store.read(lambda tx: verify(seen.watch(tail(tx))))
        if held and (problem := store.read(lambda tx: misfit(tx, held))):
            problems.append(problem)
    for problem in problems:
        typer.echo(f"broken: {problem}", err=True)
    if problems:
        raise typer.Exit(1)
    if seen.last is None:
        typer.echo("the journal is empty")
        return
    # A chain cannot show that its end was cut off; the anchor can, or a head noted elsewhere.
    chains = f"{seen.chains} chain{'s hold' if seen.chains > 1 else ' holds'}"
    typer.echo(f"{count(seen.count, 'record')} in {chains}; head {_head(seen.last)}")


@app.command("export")
def export(
    database: _Database,
    after: Annotated[
        str, typer.Option(metavar="CHAIN/SEQ", help="Only what follows this record: where the last export ended.")
    ] = "",
) -> None:
    """Write one JSON object per record to standard output, in order."""
    position = _position(after) if after else None
    with open_readonly(database) as store:
        store.read(lambda tx: _write(tx, position))


class _Seen:
    """Counts what passes by, so that the journal is read once and never held in memory."""

    def __init__(self) -> None:
        self.count = 0
        self.chains = 0
        self.last: Entry | None = None

    def watch(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            self.count += 1
            self.chains += self.last is None or entry.chain != self.last.chain
            self.last = entry
            yield entry


def _anchor(path: Path) -> Anchor:
    held = anchor.read(path)
    if held is None:
        raise ConfigError([f"--anchor {path}: no such file"])
    return held


def _write(tx: Tx, position: tuple[int, int] | None) -> None:
    while page := tx.journal(after=position):
        for entry in page:
            typer.echo(
                json.dumps(
                    {
                        "chain": entry.chain,
                        "seq": entry.seq,
                        "prev": entry.prev.hex(),
                        "hash": entry.hash.hex(),
                        "record": json.loads(entry.body),
                    }
                )
            )
        position = (page[-1].chain, page[-1].seq)


def _position(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,18})/([0-9]{1,18})", text)  # what SQLite's 64 bits hold
    if found is None:
        typer.echo("error: --after takes CHAIN/SEQ, for example 3/1204", err=True)
        raise typer.Exit(os.EX_USAGE)
    return int(found[1]), int(found[2])


def _head(entry: Entry) -> str:
    return f"{entry.chain}/{entry.seq} {entry.hash.hex()}"
