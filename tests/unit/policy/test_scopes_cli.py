"""`stepcred-broker scopes …`: what it prints and how it exits."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from broker.cli.scopes import app
from broker.journal.records import Kind, Record
from broker.store.sqlite import open_store
from broker.wiring import adapters
from tests.fakes.clock import FakeClock
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, LOAD

GRANT = "grants:\n  nightly: {workloads: [load, plain, team], workflows: [etl], scopes: [orders]}\n"
TEST = f"tests:\n  - {{as: '{LOAD}', ask: orders, expect: allow}}\n"


@pytest.fixture(autouse=True)
def fake_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "scope_kinds", lambda: KINDS)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "map.yaml"
    path.write_text(BASE + GRANT + TEST)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", [("lint",), ("test",), ("explain", LOAD, "orders", "--map")])
def test_a_missing_map_exits_78(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = run(*command, tmp_path / "none.yaml")
    assert result.exit_code == 78
    assert "none.yaml: no such file" in result.stderr


def test_explain_says_which_rule_and_what_to_change(good: Path) -> None:
    assert run("explain", LOAD, "orders", "--map", good).exit_code == 0
    result = run("explain", LOAD, "lake", "--map", good, "--at", "2026-12-01")
    assert result.exit_code == 1
    assert "DENIED NO_GRANT: no grant gives 'lake' to workload 'load'" in result.stdout
    assert "    scopes: [orders, lake]" in result.stdout
    assert parsed(run("explain", LOAD, "orders", "--map", good, "--json"))["allowed"] is True


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (LOAD,),
        (LOAD, "orders"),
        ("--denial", "x"),
        (LOAD, "orders", "--at", "noon", "--map"),
        ("load", "orders", "--map"),
        (LOAD, "a b", "--map"),
        (LOAD, "orders", "--run", "\x1b[31m", "--map"),
    ],
)
def test_explain_asked_wrongly_exits_64(good: Path, arguments: tuple[str, ...]) -> None:
    result = run("explain", *arguments, *([good] if "--map" in arguments else []))
    assert result.exit_code == 64
    assert result.stderr.startswith("error: ")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "stepcred.db"

    async def fill() -> None:
        at = FakeClock().now()
        store = open_store(path)
        await store.write(lambda tx: tx.start_epoch(replica="r", boot_id="b", expires_boot=1.0, at=at))
        record = Record(
            kind=Kind.DENIED,
            at=at,
            agent=LOAD,
            workflow="etl",
            run="r1",
            step="load",
            scope="lake",
            reason="ACCESS_DENIED",
            reference_id="ref-1",
            data={"denial": "NO_GRANT"},
        )
        await store.write(lambda tx: tx.append(record))
        await store.close()

    asyncio.run(fill())
    return path


def test_explain_denial_tells_what_the_journal_has_and_decides_again(database: Path, good: Path) -> None:
    result = run("explain", "--denial", "ref-1", "--database", database, "--map", good)
    assert result.exit_code == 1
    assert "  reason: 'ACCESS_DENIED'" in result.stdout
    assert "  scope: 'lake'" in result.stdout
    assert "  DENIED NO_GRANT: no grant gives 'lake' to workload 'load'" in result.stdout
    told = parsed(run("explain", "--denial", "ref-1", "--database", database, "--json"))
    assert (told["record"]["agent"], told["today"]) == (LOAD, None)


def test_explain_of_an_unknown_denial_or_database_says_so(database: Path, tmp_path: Path) -> None:
    result = run("explain", "--denial", "ref-2", "--database", database)
    assert (result.exit_code, result.stderr) == (1, f"error: no denial 'ref-2' in {database}\n")
    result = run("explain", "--denial", "ref-2", "--database", tmp_path / "none.db")
    assert result.exit_code == 78
    assert "no such file" in result.stderr
