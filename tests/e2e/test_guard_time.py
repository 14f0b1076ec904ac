"""Clocks that are set, under a guard: no lock and no cool-down ends early for it, and none lasts longer."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tests.e2e.test_time import BASE, DAY, LIBRARY, WallClock, long_known
from tests.e2e.wire import Refusal, Wire, issue, refusal_of, wire
from tests.e2e.world import Site, journal
from tests.support.certs import Creds
from tests.support.daemon import Deployment
from tests.support.processes import wait_until

LOCK = 16.0  # seconds, of a lock and of a refill
BUDGET, SLACK = 2, 20.0
GUARD = {
    "guard": {
        "elevated": {"budget": BUDGET, "lock": f"{LOCK:g}s", "cool_down": "1ms", "max_cool_down": "1ms"},
        "low": {"budget": BUDGET, "refill": f"{LOCK:g}s"},
    }
}
REFUSED = {"danger": "LOCKED", "token": "COOLING"}


class Asking:
    """One agent that has used up what it may have of one scope."""

    def __init__(self, deployment: Deployment, creds: Creds, scope: str) -> None:
        self._deployment = deployment
        self._creds = creds
        self._scope = scope
        with wire(deployment, creds) as client:
            self._handle = client.begin(f"run-{scope}", scope)
            for _ in range(BUDGET):
                client.issue(self._handle, scope)
            since = time.monotonic()
            assert client.refused("IssueCredential", issue(self._handle, scope)).reason == REFUSED[scope]
            # A lock begins with the request that was too many, a refill with the first attempt.
            self._since = time.monotonic() if scope == "danger" else since
            if scope == "danger":
                self._handle = client.begin(f"run-{scope}", scope)

    def still_refused(self) -> None:
        """And with no other end in sight than before."""
        with wire(self._deployment, self._creds) as client:
            refusal = self._ask(client)
            left = LOCK - (time.monotonic() - self._since)
            assert left > 0, "the machine is too slow for this test"
            assert refusal is not None
            assert refusal.reason == REFUSED[self._scope]
            if refusal.retry_after is not None:
                assert left - 3 <= refusal.retry_after <= LOCK + 1

    def served_again(self) -> None:
        """When its time has come, and not a day later."""
        with wire(self._deployment, self._creds) as client:
            wait_until(lambda: self._served(client), within=LOCK + SLACK, what=f"{self._scope} is served again")
        assert time.monotonic() - self._since >= LOCK - 3

    def _served(self, client: Wire) -> bool:
        time.sleep(0.3)
        return self._ask(client) is None

    def _ask(self, client: Wire) -> Refusal | None:
        try:
            client.issue(self._handle, self._scope)
        except grpc.RpcError as error:
            return refusal_of(error)
        return None


def sit_out(site: Site, jump: int) -> None:
    """A lock and a cool-down, over a clock that is set, and over a daemon that knows no other time."""
    deployment = site.deployment(more=GUARD)
    deployment.scopes_file.write_text(site.scope_map.replace("tier: high", "tier: elevated"))
    creds, clock = long_known(deployment), WallClock(deployment.folder / "clock")
    with deployment.daemon(env=clock.env):
        asking = [Asking(deployment, creds, scope) for scope in REFUSED]
        clock.set(BASE + jump)
        for one in asking:
            one.still_refused()
    with deployment.daemon(env=clock.env):
        for one in asking:
            one.still_refused()
        for one in asking:
            one.served_again()
    assert len(journal(deployment, "GUARD_LOCKED")) == 1
    assert journal(deployment, "GUARD_HELD") == []


@pytest.mark.skipif(LIBRARY is None, reason="needs faketime (Debian package) to set the daemon's clock")
@pytest.mark.timeout(240)
def test_a_clock_that_is_set_opens_no_lock_and_prolongs_none(site: Site) -> None:
    jumps = (DAY, -DAY)
    with ThreadPoolExecutor(len(jumps)) as pool:
        waits = [pool.submit(sit_out, site, jump) for jump in jumps]
    for wait in waits:
        wait.result()
