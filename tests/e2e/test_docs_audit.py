"""docs/audit.md: its commands on the journal of a real daemon, and a chain that somebody broke."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

import stepcred
from broker.cli.audit import app
from broker.journal.records import Kind, Record
from tests.support.bao import BaoServer, TokenRole, provision
from tests.support.daemon import Deployment, vault_section
from tests.support.pages import bash, blocks, page

TEXT = page("audit.md")
SCOPES = """
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/workflow/{workflow}/step/load", owners: [group:data]}
scopes:
  app-token: {vault: {role: docs-audit}, ttl: 10m, tier: low}
  danger: {vault: {role: docs-audit}, ttl: 10m, tier: high}
  unused: {vault: {role: docs-audit}, ttl: 10m, tier: low}
grants:
  nightly: {workloads: [load], workflows: [nightly], scopes: [app-token, danger], max_step: 2h}
"""
ONE_BYTE = """
UPDATE journal SET body = replace(body, '"scope":"danger"', '"scope":"tanger"')
WHERE (chain, seq) = (SELECT chain, seq FROM journal WHERE body LIKE '%LEASE_REVOKED%"danger"%' LIMIT 1)
"""


@dataclass(frozen=True, kw_only=True)
class Past:
    """A broker that has stopped, and what it told a step that it refused."""

    folder: Path
    reference_id: str


@pytest.fixture(scope="module")
def past(bao: BaoServer, tmp_path_factory: pytest.TempPathFactory) -> Past:
    """Run 42 gets a credential and is refused another; run 43 runs away."""
    folder = tmp_path_factory.mktemp("audit")
    login = provision(bao, folder, [TokenRole(name="docs-audit")], broker="docs-audit-broker")
    made = Deployment(folder, SCOPES, vault=vault_section(bao, login))
    agent = made.agent("workflow/nightly/step/load")
    with made.daemon(), stepcred.connect(made.addr, str(agent.cert), str(agent.key), str(agent.ca)) as broker:
        with broker.step(workflow="nightly", run="42", step="load", scopes=["app-token", "unused"]) as step:
            step.issue("app-token")
            with pytest.raises(stepcred.AccessDenied) as refused:
                step.issue("unused")
        with broker.step(workflow="nightly", run="43", step="load", scopes=["danger"]) as step:
            for _ in range(3):
                step.issue("danger")
            with pytest.raises(stepcred.GuardRefused):
                step.issue("danger")
    return Past(folder=made.database.parent, reference_id=refused.value.reference_id)


@pytest.mark.skipif(shutil.which("jq") is None, reason="no jq on this machine")
def test_the_commands_of_the_page_tell_the_runs(past: Past) -> None:
    first, story, questions = blocks(TEXT, "sh")
    opening = bash(first, past.folder)
    assert " in 1 chain holds; head" in opening
    assert past.reference_id in opening

    told = [line.split("\t")[1:] for line in bash(story, past.folder).splitlines()]
    assert [line[0] for line in told if line[0] != "DENIED"] == [
        "STEP_BEGUN",
        "LEASE_INTENT",
        "LEASE_ACTIVE",
        "LEASE_CLAIMED",
        "STEP_ENDED",
        "LEASE_REVOKING",
        "LEASE_REVOKED",
    ]
    assert told[-1][1:3] == ["app-token", "SEEN_DEAD"]

    unproven, took, ran_away = (bash(f"jq {one}", past.folder) for one in _jq(questions))
    assert unproven == ""
    assert [line.split("\t")[2] for line in took.splitlines()] == ["SEEN_DEAD"] * 4
    assert ran_away.count("GUARD_LOCKED") == 1


def _jq(block: str) -> Iterator[str]:
    """The jq commands of a block, without the word."""
    for part in ("\n" + block).split("\njq ")[1:]:
        yield part.split("\n#")[0]


def test_explain_tells_what_the_agent_was_not_told(past: Past) -> None:
    told = bash(
        f"stepcred-broker scopes explain --denial {past.reference_id} --database broker.db --map ../scopes.yaml || true",
        past.folder,
    )
    assert "unused" in told


@pytest.fixture
def copy(past: Past, tmp_path: Path) -> Path:
    """The database, whole, without the triggers that keep honest programs from the journal."""
    with (
        contextlib.closing(sqlite3.connect(past.folder / "broker.db")) as source,
        contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as target,
    ):
        source.backup(target)
        for (name,) in target.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            target.execute(f"DROP TRIGGER {name}")
        target.commit()
    (tmp_path / "copy.db").chmod(0o600)
    return tmp_path / "copy.db"


@pytest.mark.parametrize(
    ("tampering", "told"),
    [
        (ONE_BYTE, "its text was changed"),
        ("DELETE FROM journal WHERE seq = 5", "expected seq 5; records are missing"),
        ("UPDATE journal SET prev = zeroblob(32) WHERE seq = 5", "does not follow the record before it"),
        ("UPDATE journal SET chain = chain + 1 WHERE seq > 5", "records are missing"),
    ],
)
def test_a_broken_chain_is_found_in_the_words_of_the_page(copy: Path, tampering: str, told: str) -> None:
    assert verify(copy)[0] == 0
    with contextlib.closing(sqlite3.connect(copy)) as database:
        assert database.execute(tampering).rowcount > 0
        database.commit()
    code, said = verify(copy)
    assert code == 1
    assert told in said
    assert told.replace("seq 5", "seq N") in TEXT


def test_a_cut_end_is_seen_only_in_the_head(copy: Path) -> None:
    _, before = verify(copy)
    with contextlib.closing(sqlite3.connect(copy)) as database:
        database.execute("DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)")
        database.commit()
    code, after = verify(copy)
    assert code == 0
    assert after.split("head")[1] != before.split("head")[1]


def verify(database: Path) -> tuple[int, str]:
    ran = CliRunner().invoke(app, ["verify", "--database", str(database)])
    return ran.exit_code, ran.output


def test_the_page_names_every_kind_and_field() -> None:
    assert [kind.value for kind in Kind if f"`{kind.value}`" not in TEXT] == []
    assert [name for name in Record.__slots__ if f"`{name}`" not in TEXT] == []
