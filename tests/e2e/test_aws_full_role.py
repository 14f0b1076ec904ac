"""A role whose deny list has few places: who is refused, and what happens where a scope would rather cut everybody off."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import pytest

from broker.alert import AlertRule
from broker.model import EndReason, LeaseState
from tests.e2e.lake import ROLE_CHARACTERS, Lake, Step, begin, row, scope_map, take, teams
from tests.e2e.wire import Wire, issue
from tests.support.daemon import Deployment
from tests.support.processes import wait_until

PLACES = 8  # about that many are left
SOON = 15.0  # seconds
TEAMS = 3


@pytest.fixture
def site(lake: Lake, request: pytest.FixtureRequest) -> Iterator[tuple[Deployment, list[Wire]]]:
    """A daemon over a crowded role of this test's own, and three agents. The parameter: more of the scope."""
    name = request.node.name.split("[")[0].removeprefix("test_")[:60].replace("_", "-")
    deployment = lake.deployment(
        scope_map(lake.crowded_role(name, PLACES), ttl="10m", more=getattr(request, "param", ""))
    )
    with teams(deployment, TEAMS) as clients:
        yield deployment, clients


def end(step: Step) -> Any:
    """What is told of its lease."""
    (outcome,) = step.client.end(step.handle, wait=5).leases
    return outcome


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
        assert end(step).deny_written_at.seconds  # the promise is kept for each that was given one
    assert {lake.tries(step.session) for step in held} == {"AccessDenied"}
    role_arn = str(row(deployment, held[0].lease_id).params["role_arn"])
    assert lake.inline_characters(role_arn.rpartition("/")[2]) <= ROLE_CHARACTERS


@pytest.mark.parametrize("site", ["      when_full: cutoff"], indirect=True)
def test_where_the_scope_would_rather_cut_everybody_off_all_older_sessions_go(
    lake: Lake, site: tuple[Deployment, list[Wire]]
) -> None:
    deployment, clients = site

    def a_step(n: int, run: str) -> Step:
        return begin(clients[n % TEAMS], run, n % TEAMS)

    steps = [a_step(n, f"r{n}") for n in range(PLACES + 6)]
    ending, staying = steps[:-2], steps[-2:]
    for step in ending:
        assert end(step).exposed_until.seconds
    wait_until(
        lambda: lake.all_denied(*(step.session for step in steps)),
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
    end(younger[0])
    wait_until(lambda: lake.tries(younger[0].session) == "AccessDenied", within=SOON, what="denied by its name again")
    assert {lake.tries(step.session) for step in younger[1:]} == {""}
