"""A scope map of several files: teams, what is extended, what is kept. Files are parted by a line `#-- NAME`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.policy.language.files import Memory
from broker.policy.language.load import load_files
from broker.policy.problems import ScopeMapError
from tests.fuzz import mutate
from tests.fuzz.seeds import FIXTURES, ROOT
from tests.fuzz.target import Check, Target
from tests.fuzz.targets import maps

_HEAD = re.compile(rb"^#-- (\S+)\n", re.MULTILINE)
KEPT = b"kept/"  # before the name of a file that was good last


@contextmanager
def ready(_folder: Path) -> Iterator[Check]:
    def check(data: bytes) -> None:
        _, *parts = _HEAD.split(data)
        contents = {name.decode("ascii", "replace"): text for name, text in zip(parts[::2], parts[1::2], strict=True)}
        if not contents:
            return
        root, mark = next(iter(contents)), KEPT.decode()
        kept = {name.removeprefix(mark): text for name, text in contents.items() if name.startswith(mark)}
        memory = Memory(contents=contents)
        try:
            found = load_files(memory, root, maps.KINDS, kept=kept or None)
        except ScopeMapError as error:
            maps.refused(error)
        else:
            assert set(found.contents) <= {*contents, *kept}
            assert not found.refused or kept, "a bad team's file fails alone only where there is a last good one"
            maps.look(memory, root, found.map)

    yield check


def _folder(folder: Path, root: str, *, kept: bool = False) -> bytes:
    names = [root, *sorted(str(path.relative_to(folder)) for path in folder.rglob("*.y*ml"))]
    texts = {name: (folder / name).read_bytes() for name in names}
    again = {KEPT.decode() + name: text for name, text in texts.items()} if kept else {}
    return b"".join(b"#-- " + name.encode() + b"\n" + text for name, text in (texts | again).items())


def seeds() -> Iterator[bytes]:
    acme, lint = ROOT / "docs" / "examples" / "acme", FIXTURES / "scope_maps" / "lint"
    for root in ("prod.yaml", "staging.yaml", "base.yaml"):
        yield _folder(acme, root)
        yield _folder(acme, root, kept=True)
    head = b"version: 1\nenvironment: e\ntrust_domain: d\n"
    team = b"grants:\n  g: {workloads: [w], workflows: [a], scopes: [s]}\n"
    bounds = b"workloads:\n  w: {id: spiffe://d/w}\nscopes:\n  s: {fake: {role: r}, tier: low}\nteams:\n  t: {path: t.yaml}\n"
    yield b"#-- m.yaml\n" + head + bounds + b"#-- t.yaml\n" + team + b"#-- kept/t.yaml\n" + team
    yield b"#-- m.yaml\nextends: b.yaml\n" + b"#-- b.yaml\n" + head + bounds + b"#-- t.yaml\n" + team
    yield b"#-- m.yaml\nextends: m.yaml\n"
    yield b"#-- " + b"lint.yaml\n" + (lint / "teams.yaml").read_bytes()


TARGET = Target(
    ready=ready,
    seeds=seeds,
    words=[b"#-- m.yaml\n", b"#-- kept/", b"path: ", b"extends: ", *maps.WORDS],
    mutate=mutate.lines,
    max_bytes=16384,
)
