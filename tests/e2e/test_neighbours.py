"""After kill -9 a doubt under a database role is settled at once, beside honest logins of the same role."""

from __future__ import annotations

import asyncio
import signal
from urllib.parse import urlsplit

from broker.model import LeaseState
from tests.e2e.wire import issue, new_id, wire
from tests.e2e.world import LOAD, Site, leases
from tests.support.bao import provision_database
from tests.support.daemon import Deployment
from tests.support.postgres import PostgresServer
from tests.support.processes import wait_until
from tests.support.proxy import proxy

CREATION = 2.0  # seconds that the creation of the lost login takes


async def test_neighbours_of_a_lost_login_live_on_and_hold_nothing_up(site: Site, pg: PostgresServer) -> None:
    async with proxy(urlsplit(site.bao.address).port or 0) as between:
        deployment = site.deployment(
            vault={"address": between.address, "request_limit": "3s"}, timings={"mint_timeout": "3s"}
        )
        await asyncio.to_thread(_kill_and_recover, deployment, site, pg)


def _kill_and_recover(deployment: Deployment, site: Site, pg: PostgresServer) -> None:
    role = f"{site.name}-slow"
    provision_database(site.bao, pg, role)
    with deployment.daemon() as process, wire(deployment, deployment.agent(LOAD)) as client:
        handle = client.begin(new_id(), "slow")
        neighbours = [client.issue(handle, "slow") for _ in range(2)]
        held = [one.lease.lease_id for one in neighbours]
        client.heartbeat(handle, *held)
        provision_database(site.bao, pg, role, creation_delay=CREATION)
        call = client.start("IssueCredential", issue(handle, "slow"))
        wait_until(lambda: len(leases(deployment)) == 3, within=15, what="the intent")
        (lost,) = leases(deployment).keys() - set(held)
        wait_until(lambda: site.bao.token_of(lost) != [], within=15, what="the lost mint's token")
        process.send_signal(signal.SIGKILL)
        process.wait(5)
        assert call.exception() is not None
    with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
        # Without knowing whose they are it would wait for the neighbours' own end, ten minutes later.
        wait_until(lambda: leases(deployment)[lost].state.terminal, within=20, what="the doubt is settled")
        logins = [one.credential.username_password for one in neighbours]
        assert all(pg.logs_in(login.username, login.password) for login in logins)
        assert sorted(pg.minted_roles(role[:8])) == sorted(login.username for login in logins)
        assert client.heartbeat(handle, *held).ended_lease_ids == []
        assert {leases(deployment)[one].state for one in held} == {LeaseState.ACTIVE}
        assert client.end(handle).all_proven
    assert pg.minted_roles(role[:8]) == []
