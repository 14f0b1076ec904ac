"""A role whose deny list has few places: who is refused, and what happens where a scope would rather cut everybody off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import pytest

from broker.alert import AlertRule
from broker.model import EndReason, Lease, LeaseState
from tests.e2e.lake import ROLE_CHARACTERS, Lake, scope_map
from tests.e2e.wire import Wire, issue, wire
from tests.support.ceph import CephServer
from tests.support.daemon import Deployment
from tests.support.processes import wait_until

PLACES = 8  # about that many are left
SOON = 15.0  # seconds
TEAMS = 3


@pytest.fixture(scope="module")
def lake(ceph: CephServer, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    made = Lake(ceph=ceph, folder=tmp_path_factory.mktemp("lake"))
    made.create_bucket()
    return made


@pytest.fixture
def site(lake: Lake, request: pytest.FixtureRequest) -> Iterator[tuple[Deployment, list[Wire]]]:
    """A daemon over a crowded role of this test's own, and three agents. The parameter: more of the scope."""
    name = request.node.name.split("[")[0].removeprefix("test_")[:60].replace("_", "-")
    deployment = lake.deployment(
        scope_map(lake.crowded_role(name, PLACES), ttl="10m", more=getattr(request, "param", ""))
    )
    with ExitStack() as stack:
        stack.enter_context(deployment.daemon())
        agents = [deployment.agent(f"workflow/team{n}/step/load") for n in range(TEAMS)]
        yield deployment, [stack.enter_context(wire(deployment, creds)) for creds in agents]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One that holds a session."""

    client: Wire
    handle: str
    lease_id: str
    session: Any

    def end(self) -> Any:
        (outcome,) = self.client.end(self.handle, wait=5).leases
        return outcome


def take(client: Wire, handle: str) -> Step:
    """A session for this step. Raises grpc.RpcError."""
    answer = client.issue(handle, "lake")
    client.heartbeat(handle, answer.lease.lease_id)
    return Step(client=client, handle=handle, lease_id=answer.lease.lease_id, session=answer.credential.aws_session)


def take_all(client: Wire, team: int) -> tuple[list[Step], str]:
    """Until it is refused one; those before, and the handle of the step that was."""
    held: list[Step] = []
    while True:
        handle = client.begin(f"r{len(held)}", "lake", workflow=f"team{team}")
        try:
            held.append(take(client, handle))
        except grpc.RpcError:
            return held, handle


def ended(deployment: Deployment, step: Step) -> bool:
    return row(deployment, step.lease_id).state is not LeaseState.ACTIVE


def row(deployment: Deployment, lease_id: str) -> Lease:
    with deployment.store() as store:
        found = store.read(lambda tx: tx.lease(lease_id))
    assert found is not None
    return found


def test_who_would_get_a_session_that_could_not_be_ended_early_is_refused(
    lake: Lake, site: tuple[Deployment, list[Wire]]
) -> None:
    deployment, clients = site
    held: list[Step] = []
    for team, client in enumerate(clients):
        its, handle = take_all(client, team)
        assert len(its) <= PLACES / 2 + 1  # one agent alone cannot fill it
        refusal = client.refused("IssueCredential", issue(handle, "lake"))
        assert refusal.reason == "NO_ROOM_TO_REVOKE"
        assert refusal.retry_after is not None
        held += its
    assert PLACES - 2 <= len(held) <= PLACES + 2
    for step in held:
        assert step.end().deny_written_at.seconds  # the promise is kept for each that was given one
    assert {lake.tries(step.session) for step in held} == {"AccessDenied"}
    role_arn = str(row(deployment, held[0].lease_id).params["role_arn"])
    assert lake.inline_characters(role_arn.rpartition("/")[2]) <= ROLE_CHARACTERS


@pytest.mark.parametrize("site", ["      when_full: cutoff"], indirect=True)
def test_where_the_scope_would_rather_cut_everybody_off_all_older_sessions_go(
    lake: Lake, site: tuple[Deployment, list[Wire]]
) -> None:
    deployment, clients = site

    def a_step(n: int, run: str) -> Step:
        client = clients[n % TEAMS]
        return take(client, client.begin(run, "lake", workflow=f"team{n % TEAMS}"))

    steps = [a_step(n, f"r{n}") for n in range(PLACES + 6)]
    ending, staying = steps[:-2], steps[-2:]
    for step in ending:
        assert step.end().exposed_until.seconds
    wait_until(
        lambda: {lake.tries(step.session) for step in steps} == {"AccessDenied"},
        within=SOON,
        what="all older ones denied",
    )
    for step in staying:  # not ended by anybody, and dead: so their leases say it
        wait_until(partial(ended, deployment, step), within=SOON, what="told")
        assert row(deployment, step.lease_id).end_reason is EndReason.CUT_OFF
    with deployment.store() as store:
        firing = store.read(lambda tx: tx.firing_counts())
    assert firing.get(AlertRule.PROVIDER_CUT_OFF) == 1
    younger = [a_step(n, f"y{n}") for n in range(3)]
    assert {lake.tries(step.session) for step in younger} == {""}
    younger[0].end()
    wait_until(lambda: lake.tries(younger[0].session) == "AccessDenied", within=SOON, what="denied by its name again")
    assert {lake.tries(step.session) for step in younger[1:]} == {""}
