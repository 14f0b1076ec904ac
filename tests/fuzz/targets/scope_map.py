"""A scope map of one file: it loads and decides, or says what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest.mock import patch

from ruamel.yaml.error import YAMLError

from broker.policy.language import document
from broker.policy.language.files import Memory
from broker.policy.language.load import load_files
from broker.policy.problems import ScopeMapError
from tests.fuzz import mutate
from tests.fuzz.seeds import FIXTURES, ROOT, fenced, files
from tests.fuzz.target import Check, Target
from tests.fuzz.targets import maps

NAME = "map.yaml"


@contextmanager
def ready(_folder: Path) -> Iterator[Check]:
    def check(data: bytes) -> None:
        memory = Memory(contents={NAME: data})
        try:
            found = load_files(memory, NAME, maps.KINDS)
        except ScopeMapError as error:
            maps.refused(error)
        else:
            maps.look(memory, NAME, found.map)

    yield check


def seeds() -> Iterator[bytes]:
    yield from files(FIXTURES / "scope_maps", "*.y*ml")
    yield from files(ROOT / "docs" / "examples", "*.yaml")
    yield from fenced("yaml")


def _trusting() -> AbstractContextManager[object]:
    """A reader that believes ruamel to raise nothing but its own errors."""
    return patch.object(document, "ValueError", YAMLError, create=True)


TARGET = Target(
    ready=ready,
    seeds=seeds,
    words=maps.WORDS,
    mutate=mutate.lines,
    max_bytes=8192,
    mutants={"trusts-ruamel": _trusting},
)
