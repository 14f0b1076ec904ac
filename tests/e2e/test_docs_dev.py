"""docs/dev.md and docs/testing.md: what they begin with, and their examples, as a reader would paste them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from broker.policy.language.load import load, parse
from broker.wiring.dev.example import MAP
from broker.wiring.dev.maps import kinds, load_dev_map
from tests.support.pages import bash, blocks, page


@pytest.fixture
def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("STEPCRED_", "PYTEST_"))}


def test_the_dev_broker_in_five_lines(tmp_path: Path, clean: dict[str, str]) -> None:
    first = blocks(page("dev.md"), "sh")[0]
    assert len(first.splitlines()) <= 5
    said = bash(first, tmp_path, clean)
    assert "I am dev-" in said
    assert " at localhost\n" in said


def test_the_tests(tmp_path: Path, clean: dict[str, str]) -> None:
    """Both pages' maps and suites in one session."""
    five, earnest = blocks(page("testing.md"), "python")
    assert len(five.splitlines()) <= 5
    (tmp_path / "scopes").mkdir(mode=0o700)
    (tmp_path / "scopes" / "scopes.yaml").write_text(MAP)
    (tmp_path / "scopes" / "scopes.yaml").chmod(0o600)
    (tmp_path / "test_five.py").write_text(five)
    (tmp_path / "test_earnest.py").write_text(earnest)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    done = subprocess.run(argv, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=100, check=False)
    assert "4 passed" in done.stdout, done.stdout[-3000:]


def test_the_maps(tmp_path: Path) -> None:
    extending, by_hand = blocks(page("dev.md"), "yaml")
    theirs = re.sub(r"  api-key:.*\n    dev:.*\n    tier: low\n", "", MAP.split("\ntests:")[0]).replace(
        ", api-key]", "]"
    )
    theirs = theirs.replace("dev.local", "{trust_domain}").replace(
        "trust_domain: {trust_domain}", "trust_domain: prod.acme"
    )
    for name, text in (
        ("prod.yaml", theirs.replace("environment: dev ", "environment: prod ")),
        ("dev.yaml", extending),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    assert load(tmp_path / "prod.yaml", kinds()).environment == "prod"
    mine = load_dev_map(tmp_path / "dev.yaml")
    assert [one.pattern.text for one in mine.workloads.values()] == ["spiffe://dev.local/workflow/{workflow}/step/load"]
    head = MAP.split("scopes: ")[0]
    grants = "grants:\n  g: {workloads: [load], workflows: [nightly], scopes: [orders-db, api-key, broken]}\n"
    assert set(parse(head + by_hand + grants, "scopes.yaml", kinds()).scopes) == {"orders-db", "api-key", "broken"}
