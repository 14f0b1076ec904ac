"""A step that does not stop asking for something powerful: what it gets is counted by OpenBao's own audit log.

`STEPCRED_LONG=1` asks 10,000 times in each storm.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator

import grpc
import pytest

from broker.model import LeaseState
from tests.crash.armed_broker import MUTANT, NTH, POINT
from tests.e2e.wire import issue, refusal_of, wire
from tests.e2e.world import journal, leases
from tests.runaway.client import DELIVERED, RUN, SCOPE
from tests.runaway.site import LANDING, Keeper, Site, certificates
from tests.runaway.site import site as whole_site
from tests.runaway.storm import Storm
from tests.support.certs import Creds
from tests.support.daemon import Deployment
from tests.support.processes import wait_until

LONG = bool(os.environ.get("STEPCRED_LONG"))
REQUESTS = 10_000 if LONG else 600
RACES = 500 if LONG else 20
BUDGET, HOURLY = 3, 12  # of tier `high`
IN_FULL, AGGREGATE = 5, 2  # records per agent, reason and minute: of the first ones; and what opens and closes a count
LOST_ANSWER = {POINT: "mint landed, answer unread", NTH: "2"}
LOST_REQUEST = {POINT: "before mint send", NTH: "4"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with whole_site(tmp_path_factory.mktemp("runaway")) as made:
        yield made


def settled(deployment: Deployment) -> bool:
    """Of every mint is known whether it has landed."""
    return not {LeaseState.INTENT, LeaseState.IN_DOUBT} & {lease.state for lease in leases(deployment).values()}


def lose_the_second_answer(deployment: Deployment, creds: Creds) -> None:
    """The daemon dies when its second mint has landed; wait until the next one has found that out."""
    with wire(deployment, creds) as client:
        handle = client.begin(RUN, SCOPE)
        client.issue(handle, SCOPE)
        with pytest.raises(grpc.RpcError):
            client.issue(handle, SCOPE)
    wait_until(lambda: settled(deployment), within=LANDING + 20, what="the doubt is settled")


def refusals_fill_no_journal(deployment: Deployment, agents: list[Creds]) -> None:
    """Thousands of them, of a few reasons: a few records for each reason and minute."""
    with wire(deployment, agents[0]) as client:
        handle = client.begin(RUN, SCOPE)
        assert client.refused("IssueCredential", issue(handle, SCOPE)).reason == "HELD"
    before, begun = len(journal(deployment)), time.monotonic()
    done = Storm(deployment, agents, REQUESTS, handle=handle, seed=4).finished()
    minutes = 2 + (time.monotonic() - begun) // 60
    assert done.outcomes["HELD"] > REQUESTS / 2
    reasons = done.outcomes.keys() | done.spelled.keys()
    assert len(journal(deployment)) - before <= (IN_FULL + AGGREGATE) * len(reasons) * minutes


@pytest.mark.timeout(900 if LONG else 120)
def test_i4_a_runaway_gets_its_budget_and_not_one_more_whatever_it_tries_and_whenever_the_daemon_dies(
    site: Site,
) -> None:
    deployment, before = site.deployment(), site.minted
    agents = certificates(deployment, 4)
    with Keeper(deployment).running(LOST_ANSWER) as keeper:
        lose_the_second_answer(deployment, agents[0])
        storm = Storm(deployment, agents, REQUESTS)
        wait_until(lambda: bool(journal(deployment, "GUARD_LOCKED")), within=20, what="locked")
        keeper.kill()
        done = storm.finished()
        assert keeper.deaths == 2
        assert site.minted - before == BUDGET
        assert done.outcomes["HELD"] > BUDGET
        assert not {DELIVERED, "BeginStep"} & done.spelled.keys()
        assert len(journal(deployment, "GUARD_LOCKED")) == 1
        wait_until(lambda: site.alive() == [], within=10, what="all of it dead")
        refusals_fill_no_journal(deployment, agents)

    with Keeper(deployment).running(LOST_REQUEST) as keeper:
        storm = Storm(deployment, agents, REQUESTS, new_runs=True, seed=2)
        wait_until(lambda: keeper.deaths == 1, within=20, what="dead before a mint was sent")
        done = storm.finished()
        assert not {DELIVERED, "BeginStep"} & done.spelled.keys()
        assert site.minted - before <= HOURLY
        # What certainly was not minted comes back, and no more than that.
        wait_until(lambda: settled(deployment), within=LANDING + 20, what="the doubts are settled")
        Storm(deployment, agents, 100, new_runs=True, seed=3).finished()
        assert site.minted - before == HOURLY


@pytest.mark.parametrize(
    "mutant", ["charged-later", "new-attempt-new-budget", "uncharged"] if LONG else ["charged-later"]
)
def test_i4_a_guard_that_forgets_is_found_out(site: Site, mutant: str) -> None:
    deployment, before = site.deployment(), site.minted
    with deployment.daemon(env={MUTANT: mutant}):
        Storm(deployment, certificates(deployment, 4), 360).finished()
        assert site.minted - before > BUDGET


def test_i4_a_guard_that_gives_back_what_had_landed_is_found_out(site: Site) -> None:
    deployment, before = site.deployment(), site.minted
    (creds,) = certificates(deployment, 1)
    with Keeper(deployment).running(LOST_ANSWER, {MUTANT: "doubts-given-back"}):
        lose_the_second_answer(deployment, creds)
        Storm(deployment, [creds], 150).finished()
        assert site.minted - before > BUDGET


def test_i4_two_connections_that_race_for_the_last_attempt_never_both_get_it(site: Site) -> None:
    deployment, before = site.deployment(more={"guard": {"high": {"hourly": BUDGET * RACES}}}), site.minted
    one, other = certificates(deployment, 2)
    with deployment.daemon(), wire(deployment, one) as first, wire(deployment, other) as second:
        for number in range(RACES):
            handle = first.begin(f"race{number}", SCOPE)
            for _ in range(BUDGET - 1):
                first.issue(handle, SCOPE)
            asked = [client.start("IssueCredential", issue(handle, SCOPE)) for client in (first, second)]
            told = Counter(refusal_of(one).reason if (one := call.exception()) else DELIVERED for call in asked)
            assert told["LOCKED"] == 1
            assert site.minted - before == BUDGET * (number + 1)
