"""A candidate map against what was asked: every difference is told, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.journal.records import Kind
from broker.policy.decision import AccessRequest, Allowed, Decision
from broker.policy.language.load import parse
from broker.policy.usage import simulate as simulation
from broker.policy.usage import told
from broker.policy.usage.events import Outcome
from broker.policy.usage.reading import Reader
from broker.policy.usage.simulate import Change, Simulation, simulate
from tests.support.examples import examples
from tests.unit.policy.journals import START, Journal
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, DOMAIN, LOAD, a_map
from tests.unit.policy.test_decide_properties import World, requests, worlds

GRANT = "grants:\n  nightly: {workloads: [load], workflows: [etl], scopes: [orders]}\n"
SCHEDULER = f"spiffe://{DOMAIN}/airflow"
LAUNCHER = f"launchers:\n  airflow: {{id: '{SCHEDULER}', workloads: [load], workflows: [etl]}}\n"


def run(rules: str, journal: Journal, **period: Any) -> Simulation:
    return simulate(a_map(rules), journal.dicts(), **period)


def text(result: Simulation) -> str:
    return "\n".join(line for _, line in told.lines(result))


def test_the_same_map_answers_as_it_did() -> None:
    journal = Journal()
    journal.whole()
    journal.deny()
    result = run(GRANT, journal)
    assert (result.replayed, result.same, result.found) == (3, 3, False)


def test_what_would_be_refused_is_told_once_with_count_time_place_and_fix() -> None:
    journal = Journal()
    for number in range(3):
        journal.whole(run=f"r{number}")
        journal.wait(hours=1)
    result = run(GRANT.replace("[etl]", "[ml]"), journal)
    (one,) = result.ordered()
    assert (one.change, one.asked, one.named) == (Change.DENIED, 3, 3)
    assert (one.first, one.last.date()) == (START, START.date())
    assert one.group.who == "load"
    story = text(result)
    assert "newly denied: 'orders' to 'load', workflow 'etl'" in story
    assert "asked for 3x, named at the beginning of 3 steps, 2026-06-01 12:00 to 2026-06-01 14:01 UTC" in story
    assert "WORKFLOW_NOT_GRANTED: grant 'nightly' does not name workflow 'etl'" in story
    assert "rule: nightly (map.yaml:14:3)" in story
    assert "        workflows: [ml, etl]" in story
    assert f"for example run 'r0', step 'load' of '{LOAD}'" in story


def test_what_would_be_allowed_is_marked_as_widening() -> None:
    journal = Journal()
    reference = journal.deny()
    result = run(GRANT.replace("[orders]", "[orders, lake]"), journal)
    (one,) = result.ordered()
    assert (one.change, one.change.widens, one.group.reason) == (Change.ALLOWED, True, "NO_GRANT")
    assert "newly allowed (widens): 'lake' to 'load', workflow 'etl'" in text(result)
    assert f"(reference '{reference}')" in text(result)


@pytest.mark.parametrize(
    ("word", "approvals", "change"),
    [
        ("granted", 1, Change.APPROVAL),
        ("needs approval", 0, Change.UNAPPROVED),
        ("needs approval", 1, None),
        ("NO_GRANT", 1, Change.ALLOWED),
    ],
)
def test_approval_that_comes_or_goes_is_a_difference(word: str, approvals: int, change: Change | None) -> None:
    journal = Journal()
    journal.begin({"orders": word})
    base = BASE.replace('step/load"}', 'step/load", owners: [group:data]}')
    rules = GRANT.replace("scopes:", f"approvals: {approvals}, scopes:")
    result = simulate(a_map(rules, base=base), journal.dicts())
    assert [one.change for one in result.ordered()] == ([change] if change else [])
    assert result.found is (change is not None)


def test_each_request_is_asked_again_at_its_own_time() -> None:
    journal = Journal()
    journal.whole()
    journal.wait(hours=11)
    journal.whole()
    rules = GRANT.replace("scopes:", "when: {daily: {from: '11:00', to: '13:00', tz: UTC}}, scopes:")
    (one,) = run(rules, journal).ordered()
    assert (one.asked, one.first, one.group.reason) == (1, START + timedelta(hours=11, seconds=30), "OUTSIDE_WINDOW")


def test_a_launcher_that_the_candidate_does_not_know_opens_nothing() -> None:
    journal = Journal()
    step_id = journal.begin({"orders": "granted"}, proven=True, opened_by=SCHEDULER)
    journal.lease(step_id)
    assert not run(GRANT + LAUNCHER, journal).found
    result = run(GRANT, journal)
    (one,) = result.ordered()
    assert (one.change, one.group.reason, one.asked) == (Change.DENIED, "LAUNCHER_REFUSED", 1)
    assert f"'{SCHEDULER}' may not open steps of workflow 'etl'" in text(result)


def test_what_was_proven_stays_proven_only_where_the_candidate_lets_the_launcher_say_so() -> None:
    digest = "sha256:" + "a" * 64
    journal = Journal()
    journal.begin({"orders": "granted"}, proven=True, opened_by=SCHEDULER, definition_digest=digest)
    pinned = GRANT.replace("scopes:", f"definition_digest: ['{digest}'], scopes:")
    assert not run(pinned + LAUNCHER, journal).found
    other = pinned.replace("a" * 64, "b" * 64)
    assert run(other + LAUNCHER, journal).ordered()[0].group.reason == "DIGEST_NOT_PINNED"


def test_a_record_without_an_address_is_not_blamed_on_the_map() -> None:
    rules = GRANT.replace("scopes:", "when: {networks: [10.0.0.0/8]}, scopes:")
    journal = Journal()
    journal.begin({"orders": "granted"})
    result = run(rules, journal)
    assert (result.replayed, result.found, result.unusable.total()) == (0, False, 1)
    assert "not replayed: 1 (the map asks for an address, and the record tells none)" in text(result)
    journal.begin({"orders": "granted"}, address="192.0.2.1")
    assert run(rules, journal).ordered()[0].group.reason == "SOURCE_NOT_ALLOWED"
    deny = GRANT + "denies:\n  outside: {when: {networks: [192.0.2.0/24]}}\n"
    result = run(deny, journal)
    assert (result.replayed, result.ordered()[0].group.reason, result.unusable.total()) == (1, "DENY_RULE", 1)


def test_what_nobody_used_is_named_by_section() -> None:
    journal = Journal()
    journal.whole()
    unused = run(GRANT + "  spare: {workloads: [plain], workflows: ['*'], scopes: [lake]}\n" + LAUNCHER, journal)
    names = {section: [rule.name for rule in rules] for section, rules in unused.never_used().items()}
    assert names == {
        "grants": ["spare"],
        "scopes": ["scopes.lake", "scopes.scratch"],
        "workloads": ["workloads.plain", "workloads.team"],
        "launchers": ["launchers.airflow"],
    }
    assert "never used: scopes lake (map.yaml:11:3), scratch (map.yaml:12:3)" in text(unused)


def test_what_cannot_be_replayed_is_counted_and_said() -> None:
    journal = Journal()
    journal.deny("LOCKED", data={"method": "IssueCredential"})
    journal.lease("forgotten")
    journal.add(Kind.DENIALS_COUNTED, reason="ACCESS_DENIED", data={"count": 12})
    story = text(run(GRANT, journal))
    assert "not replayed: 1 (refused by something else than the scope map: LOCKED)" in story
    assert "not replayed: 1 (the beginning of its step is not in this journal)" in story
    assert "not replayed: 11 refusals of storms that the journal holds only as numbers" in story


def test_claimed_names_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "MAX_GROUPS", 3)
    journal = Journal()
    for number in range(5):
        journal.begin({"orders": "granted"}, agent=f"spiffe://{DOMAIN}/nobody", workflow=f"w{number}")
    result = run(GRANT, journal)
    assert (len(result.differences), result.beyond) == (3, {Change.DENIED: 2})
    assert "newly denied: 2 further requests" in text(result)


def test_strangers_are_told_together_by_the_shape_of_their_ids() -> None:
    journal = Journal()
    for number in range(3):
        journal.begin({"orders": "granted"}, agent=f"spiffe://{DOMAIN}/gone/etl/r{number}", run=f"r{number}")
    (one,) = run(GRANT, journal).ordered()
    assert (one.group.who, one.named) == (f"spiffe://{DOMAIN}/gone/{{workflow}}/{{run}}", 3)


def test_words_of_agents_cannot_steer_the_terminal() -> None:
    journal = Journal()
    journal.deny("\x1b[2J", agent="spiffe://x/\x1b[2J", scope="\x07\n", workflow="\x1b]0;x")
    journal.deny("\x1b[2J", data={"method": "IssueCredential"})
    journal.begin({"orders\x1b[2J": "granted", "orders": "\x1b[1m"}, agent=LOAD, workflow="etl")
    assert all(line.isprintable() for _, line in told.lines(run(GRANT, journal)))


def outcome(decision: Decision) -> Outcome:
    if not isinstance(decision, Allowed):
        return Outcome.REFUSED
    return Outcome.APPROVAL if decision.approvals else Outcome.ALLOWED


_WORDS = {Outcome.ALLOWED: "granted", Outcome.APPROVAL: "needs approval", Outcome.REFUSED: "NO_GRANT"}


@settings(max_examples=examples(40, long=100), deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds, worlds, st.lists(requests, min_size=1, max_size=8))
def test_simulate_tells_exactly_where_two_maps_differ(old: World, new: World, asked: list[AccessRequest]) -> None:
    """The old map's own answers, journalled, against the new one's: by brute force."""
    before, after = (parse(one.text(), "map.yaml", KINDS) for one in (old, new))
    journal = Journal()
    expected = set()
    for request in asked:
        journal.at = request.now
        was, now = (outcome(one.decide(request)) for one in (before, after))
        journal.begin(
            {request.scope: _WORDS[was]},
            agent=request.agent,
            workflow=request.workflow,
            run=request.run,
            proven=request.proven,
            definition_digest=request.definition_digest,
            address=request.address,
            attempt=request.attempt,
        )
        if was != now:
            expected.add((request.scope, request.workflow, was.value, now.value))
    result = simulate(after, journal.dicts())
    told_of = {(one.group.scope, one.group.workflow, one.group.was, one.group.would_be) for one in result.ordered()}
    assert told_of == expected
    assert result.replayed == len(asked)


def test_the_period_is_the_one_asked_for() -> None:
    journal = Journal()
    journal.whole()
    journal.wait(days=40)
    journal.whole()
    result = run(GRANT, journal, since=datetime(2026, 7, 1, tzinfo=UTC))
    assert (result.replayed, result.period.first) == (2, START + timedelta(days=40, seconds=30))
    assert Reader().period.span == timedelta(0)
