"""A step ends, or the daemon dies, while the database is still busy with making the login: nothing is left alive."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import grpc
import psycopg
import pytest

from broker.model import LeaseState
from tests.e2e.wire import Wire, check_refusal, issue, new_id, refusal_of, revoke, wire
from tests.e2e.world import LOAD, ROOMY, Site, journal, leases
from tests.support.bao import provision_database
from tests.support.daemon import Deployment
from tests.support.postgres import PostgresServer
from tests.support.processes import wait_until
from tests.support.proxy import proxy

C = grpc.StatusCode
CREATION = 3.0  # seconds that the creation of a login takes

LOCKS_SOON = {"guard": {**ROOMY["guard"], "high": {"budget": 1, "hourly": 1000}}}


class Database:
    """What is really there, by OpenBao's and PostgreSQL's own answers."""

    def __init__(self, site: Site, pg: PostgresServer) -> None:
        self.site = site
        self.pg = pg
        self.role = f"{site.name}-slow"
        provision_database(site.bao, pg, self.role, creation_delay=CREATION)

    def logins(self) -> list[str]:
        return self.pg.minted_roles(self.role[:8])

    def creating(self) -> bool:
        """The creation statement is running now."""
        with psycopg.connect(self.pg.dsn()) as connection:
            running = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'"
            )
            (count,) = running.fetchone() or (0,)
        return bool(count)

    def nothing_left(self) -> bool:
        """No live token, no lease of the secrets engine, no login."""
        return not (
            self.creating()
            or self.site.live_tokens()
            or self.site.bao.child_leases(f"database/creds/{self.role}")
            or self.logins()
        )


@pytest.fixture(scope="module")
def database(site: Site, pg: PostgresServer) -> Database:
    return Database(site, pg)


@pytest.fixture(scope="module")
def broker(site: Site, database: Database) -> Iterator[Deployment]:
    deployment = site.deployment(timings={"claim_window": "1s"}, more=LOCKS_SOON)
    with deployment.daemon():
        yield deployment


@pytest.fixture
def client(broker: Deployment) -> Iterator[Wire]:
    with wire(broker, broker.agent(LOAD)) as connected:
        yield connected


def start_mint(client: Wire, handle: str, deployment: Deployment, database: Database) -> tuple[Any, str]:
    """(the call in flight, its lease's id), with the creation statement running."""
    before = leases(deployment).keys()
    call = client.start("IssueCredential", issue(handle, "slow"))
    wait_until(database.creating, within=15, what="the creation statement")
    (lease_id,) = leases(deployment).keys() - before
    assert leases(deployment)[lease_id].state is LeaseState.INTENT
    return call, lease_id


def test_i5_end_step_while_minting_leaves_nothing_alive(client: Wire, broker: Deployment, database: Database) -> None:
    handle = client.begin(new_id(), "slow")
    call, lease_id = start_mint(client, handle, broker, database)
    ended = client.end(handle, wait=15)
    assert ended.all_proven
    assert database.nothing_left()
    check_refusal(refusal_of(call.exception()), "STEP_ENDED", C.FAILED_PRECONDITION)  # nothing is delivered
    assert leases(broker)[lease_id].state is LeaseState.REVOKED
    kinds = [record["kind"] for record in journal(broker) if record.get("lease_id") == lease_id]
    assert kinds == ["LEASE_INTENT", "LEASE_DOOMED", "LEASE_NOTED", "LEASE_REVOKING", "LEASE_REVOKED"]


def test_revoking_a_lease_while_it_is_minted_ends_the_lease_and_not_the_step(
    client: Wire, broker: Deployment, database: Database
) -> None:
    handle = client.begin(new_id(), "slow")
    call, lease_id = start_mint(client, handle, broker, database)
    outcome = client.call("RevokeLease", revoke(handle, lease_id)).lease
    assert outcome.HasField("time_to_dead")
    assert database.nothing_left()
    check_refusal(refusal_of(call.exception()), "LEASE_ENDED", C.FAILED_PRECONDITION)
    client.heartbeat(handle)
    client.end(handle)


def test_a_client_that_vanishes_while_minting_leaves_nothing_alive(
    client: Wire, broker: Deployment, database: Database
) -> None:
    handle = client.begin(new_id(), "slow")
    call, lease_id = start_mint(client, handle, broker, database)
    call.cancel()
    wait_until(lambda: leases(broker)[lease_id].state.terminal, within=CREATION + 6, what="revocation as unclaimed")
    assert [lease.end_reason.value for lease in [leases(broker)[lease_id]] if lease.end_reason] == ["UNCLAIMED"]
    assert database.nothing_left()
    client.end(handle)


def test_a_guard_lock_while_minting_leaves_nothing_alive(client: Wire, broker: Deployment, database: Database) -> None:
    handle = client.begin(new_id(), "slow", "danger")
    client.issue(handle, "danger")
    call, lease_id = start_mint(client, handle, broker, database)
    check_refusal(client.refused("IssueCredential", issue(handle, "danger")), "LOCKED", C.FAILED_PRECONDITION)
    check_refusal(refusal_of(call.exception()), "STEP_ENDED", C.FAILED_PRECONDITION)
    wait_until(lambda: leases(broker)[lease_id].state.terminal, within=15, what="revocation")
    assert database.nothing_left()


async def test_i1_kill_9_while_minting_leaves_nothing_alive_after_recovery(site: Site, database: Database) -> None:
    """Behind a proxy that lets the request go on: the login is made although its broker is dead."""
    async with proxy(urlsplit(site.bao.address).port or 0) as between:
        deployment = site.deployment(
            vault={"address": between.address, "request_limit": "4s"}, timings={"mint_timeout": "4s"}
        )
        await asyncio.to_thread(_kill_and_recover, deployment, site, database)


def _kill_and_recover(deployment: Deployment, site: Site, database: Database) -> None:
    with deployment.daemon() as process, wire(deployment, deployment.agent(LOAD)) as client:
        handle = client.begin(new_id(), "slow", "token")
        unclaimed = client.issue(handle, "token").lease.lease_id
        call, lease_id = start_mint(client, handle, deployment, database)
        process.send_signal(signal.SIGKILL)
        process.wait(5)
        assert call.exception() is not None
    wait_until(lambda: bool(database.logins()), within=CREATION + 2, what="the login whose broker is dead")
    with deployment.daemon():
        assert site.live_leases() <= {key for key, row in leases(deployment).items() if not row.state.terminal}
        wait_until(lambda: unclaimed not in site.live_leases(), within=15, what="the unclaimed token is dead")
        wait_until(lambda: leases(deployment)[lease_id].state.terminal, within=15, what="the doubt is settled")
        assert database.nothing_left()
        assert leases(deployment)[lease_id].state is LeaseState.REVOKED
        assert deployment.ready()
