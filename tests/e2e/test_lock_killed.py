"""The daemon is killed while the guard locks a step: after the next start the lock has not begun, or it is complete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import grpc
import pytest

from broker.alert import AlertRule
from broker.model import EndReason, LeaseState, StepState
from broker.store.base import GuardState
from tests.crash.armed_broker import MUTANT, NTH, POINT
from tests.crash.points import LOCK_POINTS
from tests.e2e.wire import Wire, issue, new_id, wire
from tests.e2e.world import journal
from tests.runaway.client import SCOPE
from tests.runaway.site import Site, certificates
from tests.runaway.site import site as whole_site
from tests.support.certs import Creds
from tests.support.daemon import Deployment
from tests.support.processes import wait_until

BUDGET = 3  # of tier `high`
COMMITTED = list(LOCK_POINTS).index("lock: after commit")
BEFORE, AFTER = list(LOCK_POINTS)[:COMMITTED], list(LOCK_POINTS)[COMMITTED:]
ROOMY = {"guard": {"high": {"hourly": 1000}}}
DEAD = 10.0  # seconds after the start until every credential of a locked step is dead


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with whole_site(tmp_path_factory.mktemp("locks")) as made:
        yield made


@dataclass(frozen=True, kw_only=True)
class Locking:
    """A step that has used up its attempts, and whatever became of its lock."""

    site: Site
    deployment: Deployment
    handle: str
    leases: tuple[str, ...]

    def not_begun(self) -> None:
        """The step goes on as if its last request had never come."""
        with self.deployment.store() as store:
            rows = store.read(lambda tx: [tx.lease(one) for one in self.leases])
            step = store.read(lambda tx: tx.step(rows[0].step_id if rows[0] else ""))
            guard = store.read(lambda tx: tx.guard_row(rows[0].guard_key if rows[0] else ""))
        assert step is not None
        assert guard is not None
        assert (step.state, guard.state, guard.spent) == (StepState.OPEN, GuardState.OPEN, BUDGET)
        assert {row.state for row in rows if row} == {LeaseState.ACTIVE}
        assert self._told() == []
        assert self._alive() == set(self.leases)

    def complete(self) -> None:
        """Step, leases, guard, journal and alert: all of it."""
        wait_until(lambda: not self._alive(), within=DEAD, what="all of its credentials dead")
        wait_until(self._proven, within=DEAD, what="and proven to be")
        with self.deployment.store() as store:
            rows = store.read(lambda tx: [tx.lease(one) for one in self.leases])
            step = store.read(lambda tx: tx.step(rows[0].step_id if rows[0] else ""))
            guard = store.read(lambda tx: tx.guard_row(rows[0].guard_key if rows[0] else ""))
            alerts = store.read(lambda tx: tx.alerts())
        assert step is not None
        assert guard is not None
        assert (step.state, step.end_reason) == (StepState.ENDED, EndReason.GUARD_LOCK)
        assert guard.state is GuardState.LOCKED
        assert {row.end_reason for row in rows if row} == {EndReason.GUARD_LOCK}
        assert self._told() == ["GUARD_LOCKED", "ALERT"]
        (alert,) = [one.alert for one in alerts if one.alert.labels["guard_key"] == guard.key]
        assert (alert.rule, alert.labels["run"]) == (AlertRule.GUARD_LOCKED, step.key.run)

    def _proven(self) -> bool:
        with self.deployment.store() as store:
            rows = store.read(lambda tx: [tx.lease(one) for one in self.leases])
        return all(row is not None and row.state is LeaseState.REVOKED for row in rows)

    def _told(self) -> list[str]:
        run = next(one["run"] for one in journal(self.deployment, "LEASE_INTENT") if one["lease_id"] == self.leases[0])
        return [one["kind"] for one in journal(self.deployment, "GUARD_LOCKED", "ALERT") if one["run"] == run]

    def _alive(self) -> set[str]:
        return {token["meta"]["lease_id"] for token in self.site.alive()} & set(self.leases)


def killed(site: Site, deployment: Deployment, creds: Creds, env: Mapping[str, str]) -> Locking:
    """A life of the daemon that ends while it locks."""
    with deployment.daemon(env=env) as process, wire(deployment, creds) as client:
        handle = client.begin(new_id(), SCOPE)
        leases = tuple(client.issue(handle, SCOPE).lease.lease_id for _ in range(BUDGET))
        client.heartbeat(handle, *leases)
        with pytest.raises(grpc.RpcError):
            one_too_many(client, handle)
        wait_until(lambda: process.poll() is not None, within=DEAD, what="killed")
    return Locking(site=site, deployment=deployment, handle=handle, leases=leases)


def one_too_many(client: Wire, handle: str) -> None:
    client.call("IssueCredential", issue(handle, SCOPE))


def test_a_lock_that_is_killed_before_its_commit_has_not_begun(site: Site) -> None:
    deployment, before = site.deployment(more=ROOMY), site.minted
    (creds,) = certificates(deployment, 1)
    lives = [killed(site, deployment, creds, {POINT: name, NTH: "1"}) for name in BEFORE]
    with deployment.daemon(), wire(deployment, creds) as client:
        for locking in lives:
            locking.not_begun()
        for locking in lives:
            assert client.refused("IssueCredential", issue(locking.handle, SCOPE)).reason == "LOCKED"
        for locking in lives:
            locking.complete()
    assert site.minted - before == BUDGET * len(BEFORE)


@pytest.mark.parametrize("name", AFTER)
def test_a_lock_that_is_killed_after_its_commit_is_completed(site: Site, name: str) -> None:
    deployment, before = site.deployment(more=ROOMY), site.minted
    (creds,) = certificates(deployment, 1)
    locking = killed(site, deployment, creds, {POINT: name, NTH: "1"})
    with deployment.daemon():
        locking.complete()
    assert site.minted - before == BUDGET


def test_a_lock_that_is_told_of_later_is_found_out(site: Site) -> None:
    deployment = site.deployment(more=ROOMY)
    (creds,) = certificates(deployment, 1)
    locking = killed(site, deployment, creds, {MUTANT: "told-later", POINT: "lock: after commit", NTH: "1"})
    with deployment.daemon(), pytest.raises(AssertionError, match="GUARD_LOCKED"):
        locking.complete()
