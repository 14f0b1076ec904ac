"""A database that was put back in time or lost: refused, recovered, and looked at again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from broker.journal.chain import verify
from broker.model import LeaseState
from broker.store.base import tail
from tests.e2e.wire import check_refusal, issue, new_id, wire
from tests.e2e.world import LOAD, Site, journal, leases
from tests.support.bao import provision_database
from tests.support.daemon import PYTHON, Deployment
from tests.support.pages import blocks, page
from tests.support.postgres import PostgresServer
from tests.support.processes import wait_until

C = grpc.StatusCode

pytestmark = pytest.mark.usefixtures("untouched")


@dataclass(frozen=True, kw_only=True)
class Told:
    """A command's end."""

    code: int
    out: str
    err: str


def stepcred_broker(deployment: Deployment, *args: str) -> Told:
    argv = [PYTHON, "-m", "broker", *args, "--config", str(deployment.config)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return Told(code=done.returncode, out=done.stdout, err=done.stderr)


def refuses_to_serve(deployment: Deployment) -> str:
    told = stepcred_broker(deployment, "serve")
    assert told.code == os.EX_CONFIG
    assert "stepcred-broker recover --since" in told.err
    return told.err


def files_of(database: Path) -> list[Path]:
    return [database.with_name(database.name + end) for end in ("", "-wal", "-shm")]


def back_up(deployment: Deployment) -> Path:
    """What a backup tool makes beside a running daemon."""
    to = deployment.folder / "backup.db"
    source, target = sqlite3.connect(deployment.database), sqlite3.connect(to)
    source.backup(target)
    source.close()
    target.close()
    to.chmod(0o600)
    return to


def restore(deployment: Deployment, backup: Path | None) -> None:
    for path in files_of(deployment.database):
        path.unlink(missing_ok=True)
    if backup:
        shutil.copy(backup, deployment.database)


@pytest.fixture
def operator(site: Site, tmp_path: Path) -> Iterator[Path]:
    """An operator's one-time token, with the policy that docs/recovery.md says."""
    (policy,) = blocks(page("recovery.md"), "hcl")
    site.bao.must("PUT", "sys/policies/acl/stepcred-recover", {"policy": policy})
    made = site.bao.must(
        "POST", "auth/token/create", {"policies": ["stepcred-recover"], "ttl": "15m", "no_default_policy": True}
    )
    path = tmp_path / "operator.token"
    path.touch(mode=0o600)
    path.write_text(made.body["auth"]["client_token"])
    yield path
    site.bao.must("POST", "auth/token/revoke", {"token": path.read_text()})


@dataclass(frozen=True, kw_only=True)
class Past:
    """Before the restore: one lease that the backup knows, two that it does not."""

    deployment: Deployment
    backup: Path
    handle: str
    known: str
    forgotten: str
    secret: str  # lease of the database login, forgotten too
    children: list[str]

    def since(self) -> str:
        return (datetime.now(UTC) - timedelta(minutes=5)).isoformat(timespec="seconds")

    def recover(self, operator: Path, *args: str) -> Told:
        return stepcred_broker(
            self.deployment, "recover", "--since", self.since(), "--vault-token-file", str(operator), *args
        )


@pytest.fixture
def past(site: Site, pg: PostgresServer) -> Past:
    provision_database(site.bao, pg, f"{site.name}-db")
    deployment = site.deployment(vault={"request_limit": "1s"}, timings={"mint_timeout": "1s"})
    prefix = f"database/creds/{site.name}-db"
    with deployment.daemon() as process, wire(deployment, deployment.agent(LOAD)) as client:
        handle = client.begin(new_id(), "token", "db")
        known = client.issue(handle, "token").lease.lease_id
        client.heartbeat(handle, known)
        backup = back_up(deployment)
        forgotten = client.issue(handle, "token").lease.lease_id
        secret = client.issue(handle, "db").lease.lease_id
        client.heartbeat(handle, known, forgotten, secret)
        process.send_signal(signal.SIGTERM)  # a clean stop writes the anchor
        process.wait(30)
    assert site.live_leases() == {known, forgotten, secret}
    return Past(
        deployment=deployment,
        backup=backup,
        handle=handle,
        known=known,
        forgotten=forgotten,
        secret=secret,
        children=site.bao.child_leases(prefix),
    )


def test_a_restored_database_serves_only_after_a_recovery_that_killed_what_it_forgot(
    site: Site, past: Past, operator: Path
) -> None:
    deployment = past.deployment
    restore(deployment, past.backup)
    assert "the database is older" in refuses_to_serve(deployment)
    assert "the database is older" in stepcred_broker(deployment, "check").err
    audit = [PYTHON, "-m", "broker", "audit", "verify", "--database", str(past.backup)]
    assert subprocess.run(audit, check=False).returncode == os.EX_OK  # a chain does not show that its end is gone
    assert subprocess.run([*audit, "--anchor", f"{deployment.mint_key}.anchor"], check=False).returncode == 1
    assert site.live_leases() == {past.known, past.forgotten, past.secret}

    told = past.recover(operator, "--json")
    report = json.loads(told.out)
    assert (told.code, report["unproven"], report["frozen"]) == (os.EX_OK, [], True)
    assert {one["lease_id"] for one in report["killed"] if one["kind"] == "token"} == {past.forgotten, past.secret}
    assert site.live_leases() == {past.known}
    wait_until(
        lambda: site.bao.child_leases(f"database/creds/{site.name}-db") == [], within=15, what="no login is left"
    )
    assert operator.read_text() not in told.out + told.err + deployment.log.read_text()

    with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
        assert client.heartbeat(past.handle, past.known).ended_lease_ids == []
        check_refusal(client.refused("IssueCredential", issue(past.handle, "token")), "FROZEN", C.FAILED_PRECONDITION)
        assert client.end(past.handle).all_proven
    assert site.live_leases() == set()
    assert stepcred_broker(deployment, "recover", "--unfreeze").out == "the broker may mint again\n"
    with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
        handle = client.begin(new_id(), "token")
        client.issue(handle, "token")
        assert client.end(handle).all_proven
    with deployment.store() as store:
        assert store.read(lambda tx: verify(tail(tx))) == []
    (record,) = journal(deployment, "RECOVERED")
    assert {one["lease_id"] for one in record["data"]["killed"]} >= {past.forgotten, past.secret}
    begun, *kills = journal(deployment, "RECOVERING")
    assert {kill.get("lease_id") for kill in kills} >= {past.forgotten, past.secret}
    assert begun["data"]["lost"]


@pytest.mark.parametrize("key_lost", [False, True])
def test_a_lost_database_begins_anew_only_after_everything_was_killed(
    site: Site, past: Past, operator: Path, *, key_lost: bool
) -> None:
    deployment = past.deployment
    restore(deployment, None)
    if key_lost:
        deployment.mint_key.unlink()
    refuses_to_serve(deployment)
    told = past.recover(operator, "--unfreeze")
    assert told.code == os.EX_OK, told
    assert site.live_leases() == set()
    with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
        handle = client.begin(new_id(), "token")
        client.issue(handle, "token")
        assert client.end(handle).all_proven


def test_a_database_that_is_lost_with_its_anchor_is_missed_because_the_key_is_there(
    site: Site, past: Past, operator: Path
) -> None:
    deployment = past.deployment
    restore(deployment, None)
    Path(f"{deployment.mint_key}.anchor").unlink()
    assert "was used with a database that is gone" in refuses_to_serve(deployment)
    assert not deployment.database.exists()
    assert stepcred_broker(deployment, "recover", "--since", past.since()).code == os.EX_NOPERM
    assert "was used with a database that is gone" in refuses_to_serve(deployment)  # that has recovered nothing
    assert past.recover(operator, "--unfreeze").code == os.EX_OK
    assert site.live_leases() == set()
    with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
        assert client.end(client.begin(new_id(), "token")).all_proven


def test_a_recovery_that_could_not_look_decides_nothing(site: Site, past: Past, operator: Path) -> None:
    deployment = past.deployment
    restore(deployment, past.backup)
    without = stepcred_broker(deployment, "recover", "--since", past.since())
    assert without.code == os.EX_NOPERM
    assert "an operator's token is needed" in without.err
    told = stepcred_broker(deployment, "recover", "--since", past.since(), "--json")
    assert json.loads(told.out)["exit_code"] == told.code == os.EX_NOPERM
    weak = deployment.folder / "weak.token"
    weak.touch(mode=0o600)
    weak.write_text("s.no-such-token")
    told = past.recover(weak)
    assert (told.code, "the operator's token is dead" in told.err) == (os.EX_NOPERM, True)
    assert stepcred_broker(deployment, "recover", "--unfreeze").code == os.EX_CONFIG
    refuses_to_serve(deployment)
    assert site.live_leases() == {past.known, past.forgotten, past.secret}

    told = past.recover(operator, "--no-wait", "--unfreeze")
    assert (told.code, "UNPROVEN" in told.out, "the broker is frozen" in told.out) == (1, True, True)
    with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
        client.heartbeat(past.handle, past.known)
        assert client.end(past.handle).all_proven


def test_recovering_beside_a_running_daemon_is_refused(site: Site, operator: Path) -> None:
    deployment = site.deployment()
    with deployment.daemon():
        told = stepcred_broker(
            deployment, "recover", "--since", "2026-01-01T00:00Z", "--vault-token-file", str(operator)
        )
    assert told.code == os.EX_UNAVAILABLE
    assert "in use by another daemon" in told.err


def test_recheck_finds_what_is_alive_though_it_was_reported_dead(site: Site, operator: Path) -> None:
    deployment = site.deployment()
    with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
        handle = client.begin(new_id(), "token")
        first, second = (client.issue(handle, "token").lease.lease_id for _ in range(2))
        assert client.end(handle).all_proven
        token = ("--vault-token-file", str(operator))
        assert stepcred_broker(deployment, "recheck", *token).out.startswith("2 seen dead again, 0 alive")
        by_itself = stepcred_broker(deployment, "recheck")
        assert by_itself.code == os.EX_UNAVAILABLE  # that nobody could look is no proof
        assert "0 seen dead again, 0 alive, 2 cannot be asked" in by_itself.out
        assert "no right to look up accessors" in by_itself.out
    assert leases(deployment)[first].state is LeaseState.REVOKED

    stray = site.bao.must("POST", "auth/token/create", {"policies": ["default"], "ttl": "5m"}).body["auth"]
    rewrite(deployment, second, {"accessor": stray["accessor"]})
    told = stepcred_broker(deployment, "recheck", *token, "--json")
    assert (told.code, [one["lease_id"] for one in json.loads(told.out)["alive"]]) == (1, [second])
    late = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    assert json.loads(stepcred_broker(deployment, "recheck", *token, "--json", "--since", late).out)["dead"] == 0
    site.bao.must("POST", "auth/token/revoke-accessor", {"accessor": stray["accessor"]})


def test_whatever_is_said_nothing_issued_after_the_backup_is_left(site: Site, past: Past, operator: Path) -> None:
    """A --since in the future would leave every leased secret alone."""
    deployment = past.deployment
    (child,) = past.children
    for token in site.bao.token_of(past.secret):  # its parent gone, the secret stays only if nobody looks for it
        site.bao.must("POST", "auth/token/revoke-accessor", {"accessor": token["accessor"]})
    wait_until(
        lambda: site.bao.child_leases(f"database/creds/{site.name}-db") == [], within=10, what="gone with its parent"
    )
    orphan = site.bao.must("GET", f"database/creds/{site.name}-db").body["lease_id"]
    restore(deployment, past.backup)
    late = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    told = stepcred_broker(
        deployment, "recover", "--since", late, "--vault-token-file", str(operator), "--json", "--unfreeze"
    )
    killed = {one["id"] for one in json.loads(told.out)["killed"]}
    assert orphan in killed
    assert child not in killed
    with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
        client.heartbeat(past.handle, past.known)
        assert client.end(past.handle).all_proven


def rewrite(deployment: Deployment, lease_id: str, refs: dict[str, Any]) -> None:
    connection = sqlite3.connect(deployment.database)
    with connection:
        row = connection.execute("SELECT refs FROM leases WHERE id = ?", (lease_id,)).fetchone()
        merged = json.dumps({**json.loads(row[0]), **refs})
        connection.execute("UPDATE leases SET refs = ? WHERE id = ?", (merged, lease_id))
    connection.close()
