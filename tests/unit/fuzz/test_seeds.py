"""Every target takes its seeds, and what the fuzzer once found; no fuzzer is needed for that."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.runner import FOUND, found
from tests.fuzz.targets import NAMES, load


@pytest.mark.parametrize("name", NAMES)
def test_seeds_and_former_findings_pass(name: str, tmp_path: Path) -> None:
    target = load(name)
    seeds = [*target.seeds()]
    assert len(seeds) >= 4
    with target.ready(tmp_path) as check:
        for one in [*seeds, *(path.read_bytes() for path in found(name))]:
            check(one)


def test_what_was_found_is_of_a_target() -> None:
    assert {path.name for path in FOUND.iterdir() if path.is_dir()} <= set(NAMES)
