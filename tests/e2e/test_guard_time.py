"""Clocks that are set, under a guard: no lock and no cool-down ends early for it, and none lasts longer."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from tests.e2e.test_time import BASE, DAY, HOUR, LIBRARY, WallClock, long_known
from tests.e2e.wire import Refusal, Wire, issue, refusal_of, wire
from tests.e2e.world import Site, journal
from tests.support.certs import Creds
from tests.support.daemon import Deployment
from tests.support.processes import wait_until

SHORT = 5.0  # seconds, of a lock and of a refill that a test sits out
BUDGET = 2
pytestmark = pytest.mark.usefixtures("untouched")
PATIENCE = 30.0  # seconds
REFUSED = {"danger": "LOCKED", "token": "COOLING"}


def deployed(site: Site, span: float) -> Deployment:
    """Its locks and its cool-downs last for `span` seconds."""
    elevated = {"budget": BUDGET, "lock": f"{span:g}s", "cool_down": "1ms", "max_cool_down": "1ms"}
    guard: dict[str, Any] = {"elevated": elevated, "low": {"budget": BUDGET, "refill": f"{span:g}s"}}
    deployment = site.deployment(more={"guard": guard})
    deployment.scopes_file.write_text(site.scope_map.replace("tier: high", "tier: elevated"))
    return deployment


class Asking:
    """An agent that uses up what it may have of one scope."""

    def __init__(self, deployment: Deployment, creds: Creds, scope: str) -> None:
        self._deployment = deployment
        self._creds = creds
        self._scope = scope
        with wire(deployment, creds) as client:
            self._handle = client.begin(f"run-{scope}", scope)
            for _ in range(BUDGET):
                client.issue(self._handle, scope)
            assert client.refused("IssueCredential", issue(self._handle, scope)).reason == REFUSED[scope]
            if REFUSED[scope] == "LOCKED":  # which has ended the step
                self._handle = client.begin(f"run-{scope}", scope)

    def still_refused(self) -> None:
        """And with no other end in sight than before: in an hour from its beginning."""
        with wire(self._deployment, self._creds) as client:
            refusal = self._ask(client)
            assert refusal is not None
            assert refusal.reason == REFUSED[self._scope]
            if refusal.retry_after is not None:
                assert HOUR - 2 * PATIENCE < refusal.retry_after <= HOUR + 1

    def served_again(self) -> None:
        """When its time has come, and not a day later."""
        with wire(self._deployment, self._creds) as client:
            wait_until(lambda: self._served(client), within=SHORT + PATIENCE, what=f"{self._scope} is served again")

    def ends(self) -> None:
        """And leaves nothing alive."""
        with wire(self._deployment, self._creds) as client:
            assert client.end(self._handle).all_proven

    def _served(self, client: Wire) -> bool:
        time.sleep(0.2)
        return self._ask(client) is None

    def _ask(self, client: Wire) -> Refusal | None:
        try:
            client.issue(self._handle, self._scope)
        except grpc.RpcError as error:
            return refusal_of(error)
        return None


def nothing_ends_early(site: Site, jump: int) -> None:
    """Nor for a daemon that is started later, and knows no other time."""
    deployment = deployed(site, HOUR)
    creds, clock = long_known(deployment), WallClock(deployment.folder / "clock")
    with deployment.daemon(env=clock.env):
        asking = [Asking(deployment, creds, scope) for scope in REFUSED]
        clock.set(BASE + jump)
        for one in asking:
            one.still_refused()
    with deployment.daemon(env=clock.env):
        for one in asking:
            one.still_refused()
            one.ends()
    assert len(journal(deployment, "GUARD_LOCKED")) == 1
    assert journal(deployment, "GUARD_HELD") == []


def nothing_lasts_longer(site: Site, jump: int) -> None:
    deployment = deployed(site, SHORT)
    creds, clock = long_known(deployment), WallClock(deployment.folder / "clock")
    with deployment.daemon(env=clock.env):
        asking = [Asking(deployment, creds, scope) for scope in REFUSED]
        clock.set(BASE + jump)
        for one in asking:
            one.served_again()
            one.ends()


@pytest.mark.skipif(LIBRARY is None, reason="needs faketime (Debian package) to set the daemon's clock")
@pytest.mark.timeout(240)
def test_a_clock_that_is_set_opens_no_lock_and_prolongs_none(site: Site) -> None:
    with ThreadPoolExecutor(3) as pool:
        lives = [pool.submit(nothing_ends_early, site, jump) for jump in (DAY, -DAY)]
        lives.append(pool.submit(nothing_lasts_longer, site, -DAY))
    for life in lives:
        life.result()
