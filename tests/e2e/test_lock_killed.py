"""The daemon is killed while the guard locks a run: after the next start the lock has not begun, or it is complete.

Complete: both steps of the run ended, all their credentials dead at OpenBao, guard, journal and alert say so, and a
receiver of alerts and one of compensations have been told. `STEPCRED_LONG=1` dies at every point within the transaction.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from broker.alert import AlertRule
from broker.config.webhook_key import make_webhook_key, public_text
from broker.model import EndReason, Lease, LeaseState, StepState
from broker.store.guard import GuardState
from tests.crash.armed_broker import MUTANT, NTH, POINT
from tests.crash.points import LOCK_POINTS
from tests.e2e.wire import issue, new_id, wire
from tests.e2e.world import journal
from tests.runaway.site import LOAD, ROLE, Site
from tests.runaway.site import site as whole_site
from tests.support import webhooks
from tests.support.certs import Creds
from tests.support.daemon import Deployment
from tests.support.processes import wait_until
from tests.support.receiver import Receiver, receiving

BUDGET = 3  # of tier `high`
COMMITTED = list(LOCK_POINTS).index("lock: after commit")
WITHIN = [(name, 1) for name in list(LOCK_POINTS)[:COMMITTED]] + [("lock: step and leases written", 2)]
BEFORE = WITHIN if os.environ.get("STEPCRED_LONG") else [WITHIN[0], *WITHIN[-3:]]
AFTER = list(LOCK_POINTS)[COMMITTED:]
DEAD = 20.0  # seconds after the start until everything is dead and told
MAP = f"""
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {{id: "spiffe://dev.local/workflow/{{workflow}}/step/load", owners: [group:data]}}
scopes:
  danger: {{vault: {{role: {ROLE}}}, ttl: 10m, tier: high}}
  plain: {{vault: {{role: {ROLE}}}, ttl: 10m, tier: low}}
tiers:
  high: {{hourly: 1000, on_lock: run, compensate: undo}}
grants:
  nightly: {{workloads: [load], workflows: [nightly], scopes: [danger, plain], max_step: 2h}}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with whole_site(tmp_path_factory.mktemp("locks")) as made:
        yield made


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Receiver]:
    """Whoever is told; `public.key` in the test's folder verifies it."""
    public = public_text(make_webhook_key(tmp_path / "webhook.key"))
    (tmp_path / "public.key").write_text(public)
    with receiving() as found:
        yield found


@pytest.fixture
def deployment(site: Site, told: Receiver, tmp_path: Path) -> Deployment:
    made = site.deployment(
        more={
            "webhooks": {"key_file": str(tmp_path / "webhook.key")},
            "alerts": {"webhook": {"pager": {"url": f"{told.url}/alert"}}},
            "compensation": {"undo": {"url": f"{told.url}/undo"}},
        }
    )
    made.scopes_file.write_text(MAP)
    return made


@dataclass(frozen=True, kw_only=True)
class Locking:
    """A run of one agent's two steps, one of which has used up its attempts, and whatever became of its lock."""

    site: Site
    deployment: Deployment
    creds: Creds
    run: str
    handle: str  # of the one that has used them up
    leases: tuple[str, ...]  # of both

    def refused(self) -> None:
        """The request that is too many, once more."""
        with wire(self.deployment, self.creds) as client:
            assert client.refused("IssueCredential", issue(self.handle, "danger")).reason == "LOCKED"

    def not_begun(self) -> None:
        """Both steps go on as if the last request had never come."""
        assert self._steps() == {(StepState.OPEN, None)}
        assert self._guard() == (GuardState.OPEN, BUDGET)
        assert {row.state for row in self._rows()} == {LeaseState.ACTIVE}
        assert self._journalled() == []
        assert self._alive() == set(self.leases)
        with self.deployment.store() as store:
            assert store.read(lambda tx: tx.alerts()) == []
            assert store.read(lambda tx: tx.unsent_notices()) == {}

    def complete(self, told: Receiver, public: str) -> None:
        """All of it."""
        wait_until(lambda: not self._alive(), within=DEAD, what="all of its credentials dead")
        wait_until(lambda: {row.state for row in self._rows()} == {LeaseState.REVOKED}, within=DEAD, what="and proven")
        assert self._steps() == {(StepState.ENDED, EndReason.GUARD_LOCK)}
        assert self._guard()[0] is GuardState.LOCKED
        assert {row.end_reason for row in self._rows()} == {EndReason.GUARD_LOCK}
        assert self._journalled() == ["GUARD_LOCKED", "ALERT"]
        with self.deployment.store() as store:
            (alert,) = (
                row.alert for row in store.read(lambda tx: tx.alerts()) if row.alert.labels.get("run") == self.run
            )
        assert alert.rule is AlertRule.GUARD_LOCKED
        wait_until(lambda: self._told(told, public) == {"/alert", "/undo"}, within=DEAD, what="people are told")

    def _told(self, receiver: Receiver, public: str) -> set[str]:
        """At which addresses this lock was received, signed by the broker; of a compensation, with all that it ended."""
        verified, found = webhooks.shown(), set()
        for message in list(receiver.messages):
            data = verified(message.headers, message.body, public)["data"]
            if message.path == "/alert" and data["labels"].get("run") == self.run:
                found.add(message.path)
            if message.path == "/undo" and data["run"] == self.run:
                assert (set(data["leases"]), len(data["steps"])) == (set(self.leases), 2)
                found.add(message.path)
        return found

    def _rows(self) -> list[Lease]:
        with self.deployment.store() as store:
            rows = store.read(lambda tx: [tx.lease(one) for one in self.leases])
        return [row for row in rows if row is not None]

    def _steps(self) -> set[tuple[StepState, EndReason | None]]:
        with self.deployment.store() as store:
            steps = store.read(lambda tx: [tx.step(one) for one in {row.step_id for row in self._rows()}])
        return {(step.state, step.end_reason) for step in steps if step is not None}

    def _guard(self) -> tuple[GuardState, int]:
        """State and what was spent, of the scope that was used up."""
        key = next(row.guard_key for row in self._rows() if row.scope == "danger")
        with self.deployment.store() as store:
            row = store.read(lambda tx: tx.guard_row(key))
        assert row is not None
        return row.state, row.spent

    def _journalled(self) -> list[str]:
        return [one["kind"] for one in journal(self.deployment, "GUARD_LOCKED", "ALERT") if one["run"] == self.run]

    def _alive(self) -> set[str]:
        return {token["meta"]["lease_id"] for token in self.site.alive()} & set(self.leases)


def killed(site: Site, deployment: Deployment, env: Mapping[str, str]) -> Locking:
    """A life of the daemon that ends while it locks."""
    load, run = deployment.agent(LOAD), new_id()
    with deployment.daemon(env=env) as process, wire(deployment, load) as client:
        other = client.begin(run, "plain", step="copy")
        held = client.issue(other, "plain").lease.lease_id
        client.heartbeat(other, held)
        handle = client.begin(run, "danger")
        leases = tuple(client.issue(handle, "danger").lease.lease_id for _ in range(BUDGET))
        client.heartbeat(handle, *leases)
        with pytest.raises(grpc.RpcError):
            client.issue(handle, "danger")
        wait_until(lambda: process.poll() is not None, within=DEAD, what="killed")
    return Locking(site=site, deployment=deployment, creds=load, run=run, handle=handle, leases=(*leases, held))


def test_a_lock_that_is_killed_before_its_commit_has_not_begun(
    site: Site, deployment: Deployment, told: Receiver, tmp_path: Path
) -> None:
    before, public = site.minted, (tmp_path / "public.key").read_text()
    lives = [killed(site, deployment, {POINT: name, NTH: str(nth)}) for name, nth in BEFORE]
    with deployment.daemon():
        for locking in lives:
            locking.not_begun()
        for locking in lives:
            locking.refused()
        for locking in lives:
            locking.complete(told, public)
    assert site.minted - before == (BUDGET + 1) * len(BEFORE)


@pytest.mark.parametrize("name", AFTER)
def test_a_lock_that_is_killed_after_its_commit_is_completed(
    site: Site, deployment: Deployment, told: Receiver, tmp_path: Path, name: str
) -> None:
    before, public = site.minted, (tmp_path / "public.key").read_text()
    locking = killed(site, deployment, {POINT: name, NTH: "1"})
    with deployment.daemon():
        locking.complete(told, public)
    assert site.minted - before == BUDGET + 1


def test_a_lock_that_is_told_of_later_is_found_out(
    site: Site, deployment: Deployment, told: Receiver, tmp_path: Path
) -> None:
    locking = killed(site, deployment, {MUTANT: "told-later", POINT: "lock: after commit", NTH: "1"})
    with deployment.daemon(), pytest.raises(AssertionError, match="GUARD_LOCKED"):
        locking.complete(told, (tmp_path / "public.key").read_text())
