"""Database logins: ended while they are made, and while their database is down.

STEPCRED_LONG=1 takes the long form: fifty times each.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from broker.config import load
from broker.model import LeaseState
from broker.wiring.serving import running
from tests.crash.armed_broker import BACKOFF, OVERDUE
from tests.e2e.test_in_flight import CREATION, LOCKS_SOON, Database
from tests.e2e.test_lifecycle import unfinished
from tests.e2e.wire import Refusal, Wire, issue, new_id, refusal_of, wire
from tests.e2e.world import LOAD, Site, journal, leases
from tests.fakes.world import ANN, everything
from tests.support.bao import connect_database, provision_database
from tests.support.daemon import Deployment
from tests.support.postgres import PostgresServer
from tests.support.processes import wait_until
from tests.support.proxy import Cable, cable, proxy

TIMES = 50 if os.environ.get("STEPCRED_LONG") else 2
SETTLE = 15.0  # seconds for everything to end


@pytest.fixture(scope="module")
def database(site: Site, pg: PostgresServer) -> Database:
    return Database(site, pg)


@dataclass(frozen=True, kw_only=True)
class Mint:
    """A step whose login is being made."""

    handle: str
    call: Any

    def refusal(self) -> Refusal:
        return refusal_of(self.call.exception())


def creations(pg: PostgresServer) -> set[tuple[int, datetime]]:
    """Creation statements running now, by server process and start."""
    with psycopg.connect(pg.dsn()) as connection:
        rows = connection.execute(
            "SELECT pid, query_start FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'"
        )
        return {(row[0], row[1]) for row in rows.fetchall()}


def start_mint(client: Wire, pg: PostgresServer) -> Mint:
    """A step whose creation statement is running. OpenBao makes one login of a database at a time."""
    before = creations(pg)
    handle = client.begin(new_id(), "slow", "danger")
    mint = Mint(handle=handle, call=client.start("IssueCredential", issue(handle, "slow")))
    wait_until(lambda: bool(creations(pg) - before), within=2 * CREATION, what="the creation statement")
    return mint


def all_gone(deployment: Deployment, database: Database) -> None:
    """Every lease has ended, and nothing is left at either server."""
    wait_until(lambda: not unfinished(deployment), within=SETTLE, what="the ends")
    assert {row.state for row in leases(deployment).values()} == {LeaseState.REVOKED}
    assert database.nothing_left()


# --- ended while it is made ---


@pytest.mark.parametrize("how", ["end", "lock"])
def test_i5_ended_or_locked_while_the_login_is_made_leaves_none(site: Site, database: Database, how: str) -> None:
    deployment = site.deployment(more=LOCKS_SOON)
    with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
        for _ in range(TIMES):
            mint = start_mint(client, database.pg)
            if how == "end":
                client.end(mint.handle, wait=0)
            else:
                client.issue(mint.handle, "danger")
                assert client.refused("IssueCredential", issue(mint.handle, "danger")).reason == "LOCKED"
            assert mint.refusal().reason == "STEP_ENDED"
        all_gone(deployment, database)


async def test_i5_frozen_while_the_login_is_made_leaves_none(site: Site, database: Database) -> None:
    """In process: operators have no call for it yet."""
    deployment = site.deployment(more=LOCKS_SOON)
    config = load(deployment.config, {})
    async with running(config) as daemon:
        with wire(deployment, deployment.agent(LOAD)) as client:
            for _ in range(TIMES):
                mint = await asyncio.to_thread(start_mint, client, database.pg)
                await daemon.engine.orders.freeze(everything(), ANN)
                refusal = await asyncio.to_thread(mint.refusal)
                assert refusal.reason == "FROZEN"
                await daemon.engine.orders.unfreeze("all", ANN)
            await asyncio.to_thread(all_gone, deployment, database)


async def test_i1_killed_while_the_login_is_made_leaves_none_after_recovery(site: Site, database: Database) -> None:
    """Through a proxy that lets the request go on: the login is made although its broker is dead."""
    async with proxy(urlsplit(site.bao.address).port or 0) as between:
        vault = {"address": between.address, "request_limit": "4s"}
        deployment = site.deployment(vault=vault, timings={"mint_timeout": "4s"})
        await asyncio.to_thread(_kill_again_and_again, deployment, database)


def _kill_again_and_again(deployment: Deployment, database: Database) -> None:
    creds = deployment.agent(LOAD)
    for _ in range(TIMES):
        with deployment.daemon() as process, wire(deployment, creds) as client:
            start_mint(client, database.pg)
            process.send_signal(signal.SIGKILL)
            process.wait(5)
    wait_until(lambda: not creations(database.pg), within=CREATION + 2, what="the creations to end")
    with deployment.daemon():
        all_gone(deployment, database)


# --- the database is down ---


async def test_i5_a_database_down_at_the_steps_end_keeps_the_lease_revoking_until_it_is_back(
    site: Site, pg: PostgresServer
) -> None:
    """For longer than the server's own six tries, after which it ignores queued revocations.

    On a compressed timeline: the alarm comes after 2 s instead of a minute, and retries are at most 1 s apart.
    """
    async with cable(pg.port) as line:
        provision_database(site.bao, pg, f"{site.name}-db")
        connect_database(site.bao, pg, port=line.port)
        deployment = site.deployment()
        deployment.module = "tests.crash.armed_broker"
        try:
            with deployment.daemon(env={OVERDUE: "2", BACKOFF: "1"}):
                await asyncio.to_thread(_end_with_the_database_down, deployment, site, pg, line)
        finally:
            connect_database(site.bao, pg)


def _end_with_the_database_down(deployment: Deployment, site: Site, pg: PostgresServer, line: Cable) -> None:
    with wire(deployment, deployment.agent(LOAD)) as client:
        handle = client.begin(new_id(), "db")
        issued = client.issue(handle, "db")
        lease_id, login = issued.lease.lease_id, issued.credential.username_password
        client.heartbeat(handle, lease_id)
        line.cut()
        assert not client.end(handle, wait=2).all_proven

    def given_up() -> bool:
        child = str(leases(deployment)[lease_id].refs["children"][0])
        return child in str(site.bao.must("GET", "sys/leases?type=irrevocable").data)

    wait_until(given_up, within=20, what="the server's own tries are used up")
    wait_until(lambda: _gauge(deployment, "stepcred_revoking_overdue") == 1, within=10, what="the alarm")
    row = leases(deployment)[lease_id]
    assert (row.state, row.evidence, row.last_problem) == (LeaseState.REVOKING, None, "SECRET_ALIVE")
    assert lease_id not in site.live_leases()  # the token is dead, and that is not taken for the end
    assert pg.logs_in(login.username, login.password)
    assert [record["lease_id"] for record in journal(deployment, "LEASE_OVERDUE")] == [lease_id]
    assert journal(deployment, "LEASE_REVOKED") == []

    line.mend()
    wait_until(lambda: leases(deployment)[lease_id].state is LeaseState.REVOKED, within=15, what="the end")
    assert not pg.logs_in(login.username, login.password)
    assert login.username not in pg.minted_roles()
    wait_until(lambda: _gauge(deployment, "stepcred_revoking_overdue") == 0, within=10, what="the end of the alarm")


def _gauge(deployment: Deployment, name: str) -> float | None:
    found = re.search(rf"^{name} (\S+)$", deployment.http("metrics")[1], re.MULTILINE)
    return float(found[1]) if found else None
