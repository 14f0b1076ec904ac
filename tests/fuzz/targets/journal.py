"""Journal records from anywhere: each is an event, none, or unusable; what is told of them obeys no terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import typer

from broker.cli.journal import records
from broker.journal.chain import Entry, verify
from broker.journal.records import Kind, Record
from broker.policy.language.load import parse
from broker.policy.usage.reading import Reader
from broker.policy.usage.simulate import simulate
from broker.policy.usage.told import lines, to_json
from tests.fakes.domain import denied
from tests.fuzz.target import Check, Target
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE

MAP = parse(BASE, "map.yaml", KINDS)


@contextmanager
def ready(folder: Path) -> Iterator[Check]:
    path = folder / "export.jsonl"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            found = list(records(path))
        except typer.Exit as end:  # the command's own end, with its line
            assert end.exit_code
            return
        reader = Reader()
        for record in found:
            list(reader.read(record))
        result = simulate(MAP, iter(found))
        json.dumps(to_json(result))
        for _, line in lines(result):
            assert line.replace("\n", "").isprintable()
        entries = [Entry(chain=1, seq=n, body=json.dumps(one), prev=b"", hash=b"") for n, one in enumerate(found)]
        verify(entries)

    yield check


def seeds() -> Iterator[bytes]:
    load = "spiffe://prod.acme.internal/workflow/etl/step/load"
    names = {"agent": load, "workflow": "etl", "run": "r1", "step": "load", "step_id": "s1", "lease_id": "l1"}
    base = replace(denied("ref"), **names, scope="orders")  # type: ignore[arg-type]  # a test's own fields
    for kind in Kind:
        data = {
            "scopes": {"orders": "granted", "lake": "OUTSIDE_WINDOW"},
            "count": 7,
            "attempt": 2,
            "denial": kind.value,
        }
        record = Record(**{name: getattr(base, name) for name in Record.__slots__} | {"kind": kind, "data": data})
        yield json.dumps({"record": json.loads(record.body())}).encode() + b"\n"
    yield b'{"record": {"at": "9999-12-31T23:59:59-23:59", "kind": "DENIED"}}\n'
    yield b"[" * 5000


TARGET = Target(
    ready=ready,
    seeds=seeds,
    words=[
        *(f'"{kind.value}"'.encode() for kind in Kind),
        *(f'"{name}":'.encode() for name in ("record", "at", "data", "scopes", "count", "attempt", "proven", "denial")),
        *(b"\\ud800", b"\\u001b", b"Infinity"),
    ],
    max_bytes=4096,
)
