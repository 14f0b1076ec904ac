"""One minute on one role of a real STS: 300 steps end, their sessions with them, and nobody else's.

What the daemon says is held against what the sessions can do: nothing may be reported dead that still works.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from broker.model import Evidence, Lease, LeaseState
from broker.providers.aws.denies.writer import PACE
from broker.providers.base import DENY_WRITTEN_AT
from tests.e2e.lake import PROBE, ROLE_CHARACTERS, Lake, Step, begin, scope_map, teams
from tests.e2e.wire import Wire
from tests.support.daemon import Deployment
from tests.support.processes import wait_until
from tests.support.proxy import Counting, counting

TEAMS = 4  # agents: one alone may not fill a role's list
STEPS = 300
STAY = 8  # steps of the same role that go on
WITHIN = 60.0  # seconds for all the ends
MANY_WRITES = 10  # of policies, beside those that the pace allows: a role's first, and the last ones
PROVEN = 120.0  # seconds after that, until each is proven: three refusals, five seconds apart, of 300 sessions


@dataclass
class Watch:
    """Looks all the time at the role's policies, and at what is reported dead."""

    lake: Lake
    role: str
    deployment: Deployment
    held: dict[str, Step]
    largest: int = 0  # characters of the role's inline policies
    reported: dict[str, Evidence | None] = field(default_factory=dict)
    lies: list[str] = field(default_factory=list)  # leases that were reported dead and worked
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.wait(0.25):
            self.look()

    def look(self) -> None:
        self.largest = max(self.largest, self.lake.inline_characters(self.role))
        for lease in rows(self.deployment):
            if lease.state.terminal and lease.id in self.held and lease.id not in self.reported:
                self.reported[lease.id] = lease.evidence
                if self.lake.tries(self.held[lease.id].session) != "AccessDenied":
                    self.lies.append(lease.id)


def rows(deployment: Deployment) -> list[Lease]:
    with deployment.store() as store:
        return store.read(lambda tx: tx.leases_in(*LeaseState))


@pytest.fixture
def iam(lake: Lake) -> Iterator[Counting]:
    """What the daemon asks IAM for."""
    with counting(urlsplit(lake.ceph.url).port or 0) as between:
        yield between


@pytest.fixture
def site(lake: Lake, iam: Counting) -> Iterator[tuple[Deployment, list[Wire]]]:
    role = scope_map(lake.role("minute"), ttl="5m", more=PROBE)
    deployment = lake.deployment(role, iam_endpoint_url=iam.address)
    with teams(deployment, TEAMS) as clients:
        yield deployment, clients


def deny_on_record(deployment: Deployment, held: list[Step]) -> bool:
    denied = {lease.id for lease in rows(deployment) if DENY_WRITTEN_AT in lease.refs}
    return denied.issuperset(one.lease_id for one in held)


def test_three_hundred_step_ends_in_a_minute_kill_their_sessions_and_no_others(
    lake: Lake, site: tuple[Deployment, list[Wire]], iam: Counting
) -> None:
    deployment, clients = site
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: begin(clients[n % TEAMS], f"r{n}", n % TEAMS), range(STEPS + STAY)))
        ending, staying = made[:STEPS], made[STEPS:]
        assert {lake.tries(one.session) for one in made} == {""}
        watch = Watch(lake, "minute", deployment, {one.lease_id: one for one in ending})
        watching = threading.Thread(target=watch.run)
        watching.start()
        try:
            begun, before = time.monotonic(), iam.actions["PutRolePolicy"]
            answers = list(pool.map(lambda one: one.client.end(one.handle, wait=0), ending))
            took = time.monotonic() - begun
            for one in staying:
                one.client.heartbeat(one.handle, one.lease_id)
            assert took < WITHIN
            wait_until(lambda: deny_on_record(deployment, ending), within=WITHIN, what="every deny written")
            # One write for all who end at a time, however slow the machine is.
            written, took = iam.actions["PutRolePolicy"] - before, time.monotonic() - begun
            assert written <= MANY_WRITES + took / PACE
            assert written < STEPS / 4
            wait_until(lambda: len(watch.reported) == STEPS, within=PROVEN, what="every session proven dead")
        finally:
            watch.stop.set()
            watching.join()
    assert watch.lies == []
    assert set(watch.reported.values()) == {Evidence.PROBE_DENIED}
    assert watch.largest <= ROLE_CHARACTERS
    assert {lake.tries(one.session) for one in ending} == {"AccessDenied"}
    assert {lake.tries(one.session) for one in staying} == {""}  # siblings on the same role
    outcomes = [lease for answer in answers for lease in answer.leases]
    assert len(outcomes) == STEPS
    assert all(one.exposed_until.seconds for one in outcomes)  # at once: not dead, and until when it may live
