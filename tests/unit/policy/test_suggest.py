"""Least privilege: what nobody used goes, what was used stays, and nothing is ever given more."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.model import Bind
from broker.policy.decision import AccessRequest, Allowed, Concurrent, Decision
from broker.policy.language.document import read_document
from broker.policy.language.files import Memory
from broker.policy.language.load import load_files, parse
from broker.policy.scope_map import ScopeMap
from broker.policy.usage import advice as told
from broker.policy.usage.measure import Spans, measure
from broker.policy.usage.suggest import Advice, suggest
from broker.policy.usage.suggestion import pasteable
from tests.support.examples import examples
from tests.unit.policy import test_decide_properties as worlds
from tests.unit.policy.journals import Journal
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, DOMAIN, LOAD, a_map

PLAIN = f"spiffe://{DOMAIN}/plain"
WIDE = (
    "grants:\n"
    "  nightly: {workloads: [load, plain], workflows: ['*'], scopes: [orders, lake], max_step: 12h}\n"
    "  spare: {workloads: [plain], workflows: [etl], scopes: [orders]}\n"
)
CALM = "grants:\n  nightly: {workloads: [load], workflows: [etl], scopes: [orders], max_step: 12h, attempts: 3}\n"


def advised(rules: str, journal: Journal) -> Advice:
    return suggest(measure(a_map(rules), journal.dicts()))


def values(advice: Advice) -> dict[str, Any]:
    return {".".join(one.path): one.value for one in advice.suggestions}


def text(advice: Advice) -> str:
    return "\n".join(line for _, line in told.lines(advice))


def suggested(base: str, advice: Advice) -> ScopeMap:
    """As an operator would have it: pasted over the map that was measured."""
    pasted = pasteable(advice.suggestions).get("map.yaml", "")
    head = "\n".join(line for line in base.split("\n") if line.startswith(("version", "environment", "trust_domain")))
    over = f"extends: map.yaml\n{head}\n{pasted}\n"
    files = Memory(contents={"map.yaml": base.encode(), "over.yaml": over.encode()})
    return load_files(files, "over.yaml", KINDS).map


def test_what_was_never_used_goes_with_the_period_as_evidence() -> None:
    journal = Journal()
    journal.whole()
    journal.wait(days=37)
    journal.whole()
    advice = advised(WIDE, journal)
    assert values(advice) == {
        "grants.nightly.scopes": ["orders"],
        "grants.nightly.workloads": ["load"],
        "grants.nightly.workflows": ["etl"],
        "grants.spare": None,
    }
    assert pasteable(advice.suggestions)["map.yaml"].split("\n")[:5] == [
        "grants:",
        "  nightly:",
        "    # never used: lake; 4 requests in 37 days of journal (2026-06-01 12:00 to 2026-07-08 12:01 UTC)",
        "    scopes: [orders]",
        "    # never asked: plain; 4 requests in 37 days of journal (2026-06-01 12:00 to 2026-07-08 12:01 UTC)",
    ]
    assert "  spare: null" in text(advice)
    assert "caution" not in text(advice)


def test_a_short_journal_is_a_caution() -> None:
    journal = Journal()
    journal.whole()
    assert text(advised(WIDE, journal)).startswith("# caution: only 0 minutes of journal (")


def test_a_scope_that_steps_name_and_never_ask_for_is_said_and_stays() -> None:
    journal = Journal()
    journal.begin({"orders": "granted", "lake": "granted"})
    advice = advised(WIDE.replace("[load, plain]", "[load]"), journal)
    assert "grants.nightly.scopes" not in values(advice)
    journal.whole()
    wider = WIDE.replace("[load, plain]", "[load]").replace("lake]", "lake, scratch]")
    assert values(advised(wider, journal))["grants.nightly.scopes"] == ["orders", "lake"]
    assert "1 steps named scope lake at their beginning, and none asked for it" in text(advice)


def test_spans_far_above_use_are_shortened_to_twice_p99() -> None:
    journal = Journal()
    for number in range(100):
        journal.whole(seconds=29 if number else 100, run=f"r{number}")
    found = values(advised(CALM, journal))
    assert found == {"scopes.orders.ttl": "1m", "grants.nightly.max_step": "2m"}
    story = text(advised(CALM, journal))
    assert "# credentials were kept p50 29s, p99 29s, longest 100s (100 samples)" in story
    assert "# steps lasted p50 29s, p99 29s, longest 100s (100 samples)" in story


def test_too_few_samples_prove_nothing_about_spans() -> None:
    journal = Journal()
    for number in range(99):
        journal.whole(run=f"r{number}")
    assert values(advised(CALM, journal)) == {}


def test_credentials_that_were_cut_short_are_no_samples_and_those_kept_to_their_end_are() -> None:
    journal = Journal()
    for number in range(100):
        step_id = journal.begin({"orders": "granted"}, run=f"r{number}")
        lease_id = journal.lease(step_id)
        journal.wait(seconds=5)
        journal.end(step_id, lease_id, reason="SILENT")
    assert values(advised(CALM, journal)) == {}
    for number in range(100):
        journal.whole(seconds=899 if number % 10 == 0 else 10)
    assert "scopes.orders.ttl" not in values(advised(CALM, journal))


def test_attempts_far_above_what_was_needed_go_and_one_retry_stays() -> None:
    journal = Journal()
    for number in range(60):
        journal.whole(run=f"r{number}", seconds=600)
    free = CALM.replace(", attempts: 3", "")
    assert values(advised(free, journal))["grants.nightly.attempts"] == 2
    assert "grants.nightly.attempts" not in values(advised(CALM, journal))
    journal.begin({"orders": "granted"}, attempt=4)
    assert values(advised(free, journal))["grants.nightly.attempts"] == 4


def test_many_workflows_keep_their_star() -> None:
    journal = Journal()
    for number in range(6):
        journal.whole(agent=PLAIN, workflow=f"w{number}")
    rules = "grants:\n  any: {workloads: [plain], workflows: ['*'], scopes: [orders]}\n"
    assert values(advised(rules, journal)) == {}


def test_a_team_s_grants_are_pasted_over_the_team_s_file() -> None:
    root = BASE + "teams: {pay: {path: pay.yaml, scopes_prefix: pay-, max_tier: low, workloads: [load, plain]}}\n"
    pay = (
        "version: 1\nscopes: {pay-a: {fake: {role: pay-a}, tier: low}}\n"
        "grants: {all: {workloads: [load, plain], workflows: [etl], scopes: [pay-a]}}\n"
    )
    files = Memory(contents={"map.yaml": root.encode(), "pay.yaml": pay.encode()})
    journal = Journal()
    journal.whole("pay-a")
    advice = suggest(measure(load_files(files, "map.yaml", KINDS).map, journal.dicts()))
    assert list(pasteable(advice.suggestions)) == ["pay.yaml"]
    assert values(advice) == {"grants.all.workloads": ["load"]}


def test_taking_the_stricter_of_two_away_would_widen_and_is_not_suggested() -> None:
    rules = (
        "grants:\n"
        "  lax: {workloads: [load], workflows: [etl], scopes: [orders], max_step: 12h}\n"
        "  strict: {workloads: [load], workflows: [etl], scopes: [orders], max_step: 1h}\n"
    )
    journal = Journal()
    journal.whole()
    advice = advised(rules, journal)
    assert values(advice) == {}
    assert "strict (map.yaml:15:3): grants.strict stays: another grant, laxer, overlaps with it" in text(advice)
    assert values(advised(rules.replace("1h", "12h"), journal)) == {"grants.strict": None}
    assert values(advised(rules.replace("strict:", "max_step:"), journal)) == {}  # a grant may be called anything


def test_a_grant_that_asks_for_approval_is_not_taken_from_beside_one_that_does_not() -> None:
    base = BASE.replace('step/load"}', 'step/load", owners: [group:data]}')
    rules = (
        "grants:\n"
        "  free: {workloads: [load], workflows: [etl], scopes: [orders]}\n"
        "  asks: {workloads: [load], workflows: [etl], scopes: [orders], approvals: 1}\n"
    )
    journal = Journal()
    journal.whole()
    assert values(suggest(measure(a_map(rules, base=base), journal.dicts()))) == {}


def test_nor_is_one_that_lets_the_older_attempt_live_from_beside_one_that_does_not() -> None:
    rules = (
        "grants:\n"
        "  ends: {workloads: [load], workflows: [etl], scopes: [orders], concurrent: supersede}\n"
        "  lets: {workloads: [load], workflows: [etl], scopes: [orders], concurrent: refuse}\n"
    )
    journal = Journal()
    journal.whole()
    assert values(advised(rules, journal)) == {}


def test_nor_is_one_that_holds_the_step_to_a_key_from_beside_one_that_does_not() -> None:
    rules = (
        "grants:\n"
        "  free: {workloads: [load], workflows: [etl], scopes: [orders]}\n"
        "  held: {workloads: [load], workflows: [etl], scopes: [orders], bind: key}\n"
    )
    journal = Journal()
    journal.whole()
    assert values(advised(rules, journal)) == {}


TEAMS = (
    f"version: 1\nenvironment: prod\ntrust_domain: {DOMAIN}\n"
    "workloads:\n"
    f"  first: {{id: 'spiffe://{DOMAIN}/{{team}}/fixed'}}\n"
    f"  second: {{id: 'spiffe://{DOMAIN}/{{other}}/{{team}}'}}\n"
    "scopes: {own: {fake: {role: '{team}'}, tier: low}}\n"
)


@pytest.mark.parametrize(
    "rules",
    [
        (
            "grants:\n"
            "  one: {workloads: [first], workflows: [etl], scopes: [own]}\n"
            "  two: {workloads: [second], workflows: [etl], scopes: [own]}\n"
        ),
        "grants:\n  one: {workloads: [first, second], workflows: [etl], scopes: [own]}\n",
    ],
)
def test_what_would_be_filled_from_another_workload_s_captures_stays(rules: str) -> None:
    """`…/p/fixed` has team p by the first workload; without it, it would have team fixed."""
    journal = Journal()
    journal.whole("own", agent=f"spiffe://{DOMAIN}/p/q")
    old = parse(TEAMS + rules, "map.yaml", KINDS)
    advice = suggest(measure(old, journal.dicts()))
    assert (values(advice), len(advice.kept)) == ({}, 1)
    assert values(
        suggest(measure(parse((TEAMS + rules).replace("'{team}'", "'x'"), "map.yaml", KINDS), journal.dicts()))
    )


def test_requests_that_the_map_refuses_today_count_for_nothing_and_are_said() -> None:
    journal = Journal()
    journal.whole(workflow="ml", agent=LOAD.replace("etl", "ml"))
    advice = advised(CALM, journal)
    assert values(advice) == {"grants.nightly": None}
    assert "# caution: 2 requests that were allowed then are refused by this map" in text(advice)


def test_everything_told_can_be_pasted() -> None:
    journal = Journal()
    journal.whole()
    advice = advised(WIDE, journal)
    assert (
        read_document(text(advice), "told").data == read_document(pasteable(advice.suggestions)["map.yaml"], "x").data
    )


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (100, 100)])
def test_percentiles_are_nearest_ranks(percent: int, expected: int) -> None:
    spans = Spans()
    for seconds in range(1, 101):
        spans.add(timedelta(seconds=seconds))
    assert spans.percentile(percent) == timedelta(seconds=expected)


def test_long_spans_are_rounded_up_to_minutes() -> None:
    spans = Spans()
    spans.add(timedelta(seconds=3601))
    assert (spans.longest, spans.percentile(99)) == (timedelta(minutes=61), timedelta(minutes=61))


# --- the property ---

grants = st.tuples(
    worlds.grants,
    st.fixed_dictionaries({}, optional={"approvals": st.sampled_from([1, 2]), "attempts": st.sampled_from([1, 2, 9])}),
).map(lambda pair: pair[0] | pair[1])
questions = st.builds(
    lambda asked, attempt: AccessRequest(
        **{name: getattr(asked, name) for name in AccessRequest.__slots__} | {"attempt": attempt}
    ),
    worlds.requests,
    st.sampled_from([1, 2, 3]),
)


def document(given_grants: list[dict[str, Any]], denies: list[dict[str, Any]]) -> str:
    found = json.loads(worlds.World(grants=given_grants, denies=denies).text())
    for workload in found["workloads"].values():
        workload["owners"] = ["group:x"]
    lines = [f"{key}: {json.dumps(value)}" for key, value in found.items()]
    return "\n".join(lines)


def journal_of(scope_map: ScopeMap, asked: list[AccessRequest], times: int) -> Journal:
    """What the map's broker would have journalled, each of them so many times."""
    journal = Journal()
    for request in asked * times:
        decision = scope_map.decide(request)
        if not isinstance(decision, Allowed):
            continue
        journal.at = request.now
        step_id = journal.begin(
            {request.scope: "needs approval" if decision.approvals else "granted"},
            agent=request.agent,
            workflow=request.workflow,
            run=request.run,
            proven=request.proven,
            definition_digest=request.definition_digest,
            attempt=request.attempt,
            address=request.address,
        )
        lease_id = journal.lease(step_id, request.scope, agent=request.agent)
        journal.wait(seconds=20)
        journal.end(step_id, lease_id, scope=request.scope)
    return journal


def no_wider(new: Decision, old: Decision) -> bool:
    """In everything that an answer bounds."""
    if not isinstance(new, Allowed):
        return True
    if not isinstance(old, Allowed):
        return False
    return (
        (new.provider, new.params, new.tier) == (old.provider, old.params, old.tier)
        and new.ttl <= old.ttl
        and new.max_ttl <= old.max_ttl
        and new.max_step <= old.max_step
        and new.approvals >= old.approvals
        and (old.until is None or (new.until is not None and new.until <= old.until))
        and (new.concurrent is Concurrent.REFUSE or old.concurrent is Concurrent.SUPERSEDE)
        and (new.bind is Bind.KEY or old.bind is Bind.IDENTITY)
    )


@settings(max_examples=examples(40, long=150), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(grants, min_size=1, max_size=5),
    st.lists(worlds.denies, max_size=1),
    st.lists(questions, min_size=1, max_size=5),
    st.lists(questions, min_size=10, max_size=30),
    st.sampled_from([1, 110]),
)
def test_suggestions_only_narrow_and_keep_what_was_used(
    given_grants: list[dict[str, Any]],
    denies: list[dict[str, Any]],
    used: list[AccessRequest],
    others: list[AccessRequest],
    times: int,
) -> None:
    base = document(given_grants, denies)
    old = parse(base, "map.yaml", KINDS)
    advice = suggest(measure(old, journal_of(old, used, times).dicts()))
    new = suggested(base, advice)
    for request in (*used, *others):
        assert no_wider(new.decide(request), old.decide(request)), pasteable(advice.suggestions)
    for request in used:
        assert isinstance(new.decide(request), Allowed) == isinstance(old.decide(request), Allowed)
