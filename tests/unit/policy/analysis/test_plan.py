"""plan(): its words, its verdicts, its order; launchers and what is said of the map as a whole."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from broker.model import Tier
from broker.policy.analysis.changes import Comparison, Kind
from broker.policy.analysis.plan import Plan, plan
from broker.policy.analysis.reach import what_can, who_can
from broker.policy.language.load import parse
from broker.policy.scope_map import ScopeMap
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, DOMAIN, LOAD, a_map

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
GRANT = "grants:\n  nightly: {workloads: [load], workflows: [etl], scopes: [orders]}\n"
WHERE = f"spiffe://{DOMAIN}/workflow/{{workflow}}/step/load"
SCHEDULER = f'launchers:\n  air: {{id: "spiffe://{DOMAIN}/air", workloads: [plain], workflows: [etl]}}\n'


def of(old: str, new: str) -> Plan:
    return plan(a_map(old), a_map(new), NOW)


def test_a_gain_names_scope_workload_pattern_workflow_and_rule() -> None:
    found = of(GRANT, GRANT.replace("[orders]", "[orders, lake]"))
    assert found.widens
    assert found.lines() == [f"gained: lake for load {WHERE}, workflow etl (nightly (map.yaml:14:3))"]
    (change,) = found.changes
    assert change.refused == "NO_GRANT: no grant gives 'lake' to workload 'load'"
    assert (change.tiers, found.widens_tier(Tier.HIGH)) == ((Tier.HIGH, Tier.HIGH), True)
    back = of(GRANT.replace("[orders]", "[orders, lake]"), GRANT)
    assert (back.widens, back.widens_tier(Tier.LOW)) == (False, False)
    assert [change.kind for change in back.changes] == [Kind.LOST]


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("definition_digest: ['sha256:" + "a" * 64 + "']", "only when a launcher proves it"),
        ("when: {networks: [10.0.0.0/8]}", "from 10.0.0.0/8"),
        ("when: {daily: {from: '22:00', to: '06:00', tz: UTC}}", "between 22:00 and 06:00 UTC"),
        ("when: {until: 2027-01-01}", "until 2027-01-01T00:00Z"),
        ("attempts: 3", "for attempts up to 3"),
    ],
)
def test_conditions_are_told_in_words(condition: str, words: str) -> None:
    (line,) = of("", GRANT.replace("}", f", {condition}}}")).lines()
    assert words in line
    narrowed = of(GRANT, GRANT.replace("}", f", {condition}}}"))
    assert not narrowed.widens
    assert narrowed.changes


def test_any_workflow_but_those_that_had_it_before() -> None:
    (line,) = of(GRANT, GRANT.replace("[etl]", "['*']")).lines()
    assert "any workflow but etl" in line
    (more,) = of("", GRANT.replace("[etl]", "['*']")).lines()
    assert "any workflow (" in more


def test_what_was_refused_for_different_reasons_is_told_apart() -> None:
    rule = "grants:\n  g: {workloads: [load], workflows: [etl], scopes: [orders], attempts: 3}\n"
    found = of(rule, rule.replace("[etl]", "[etl, ml]").replace(", attempts: 3", ""))
    told = [(change.workflows, change.conditions, change.refused.split(":")[0]) for change in found.changes]
    assert told == [
        (("etl",), ("for attempts from 4",), "ATTEMPTS_EXHAUSTED"),
        (("ml",), (), "WORKFLOW_NOT_GRANTED"),
    ]


def test_a_longer_window_says_what_it_was() -> None:
    window = GRANT.replace("}", ", when: {daily: {from: '22:00', to: '06:00', tz: UTC}}}")
    lines = of(window, window.replace("06:00", "07:00")).lines()
    assert any("between 22:00 and 07:00 UTC, before between 22:00 and 06:00 UTC" in line for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "widens", "line"),
    [
        ("tier: low", "tier: elevated", False, "tier low → elevated"),
        ("tier: low", "tier: low, ttl: 20m", True, "ttl 15m → 20m"),
        ("role: orders-ro", "role: orders-rw", True, "what is minted"),
        ("fake: {role: orders-ro}", "fake: {role: static}", True, "revocability EXACT → STATIC"),
        ("fake: {role: orders-ro}", "other: {role: orders-ro}", True, "provider fake → other"),
    ],
)
def test_bounds_of_a_scope(old: str, new: str, *, widens: bool, line: str) -> None:
    base = BASE.replace(old, new, 1)
    found = plan(a_map(GRANT), a_map(GRANT, base=base), NOW)
    assert found.widens is widens
    assert any(line in one for one in found.lines()), found.lines()


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("max_step: 1h", "max_step: 2h", "max_step 1h → 2h"),
        ("concurrent: refuse", "concurrent: supersede", "concurrent refuse → supersede"),
        ("bind: key", "bind: identity", "bind key → identity"),
        ("approvals: 2", "approvals: 1", "approvals 2 → 1"),
        (
            "when: {until: 2027-01-01}",
            "when: {until: 2028-01-01}",
            "until 2027-01-01T00:00+00:00 → 2028-01-01T00:00+00:00",
        ),
    ],
)
def test_bounds_of_a_grant(before: str, after: str, line: str) -> None:
    base = BASE.replace('load"}', 'load", owners: [ann]}')
    maps = [a_map(GRANT.replace("}", f", {one}}}"), base=base) for one in (before, after)]
    found = plan(maps[0], maps[1], NOW)
    assert found.widens
    assert any(line in one and one.startswith("loosened: ") for one in found.lines()), found.lines()
    assert not plan(maps[1], maps[0], NOW).widens


def test_fewer_owners_let_more_people_approve() -> None:
    bases = [BASE.replace('load"}', f'load", owners: [{owners}]}}') for owners in ("ann, bob", "ann")]
    maps = [a_map(GRANT.replace("}", ", approvals: 1}"), base=base) for base in bases]
    assert ["owners ann, bob → ann" in line for line in plan(maps[0], maps[1], NOW).lines()] == [True]
    assert plan(maps[0], maps[1], NOW).widens
    assert not plan(maps[1], maps[0], NOW).widens


def test_what_is_over_already_is_no_change() -> None:
    assert of("", GRANT.replace("}", ", when: {until: 2026-01-01}}")).changes == ()


def test_a_tier_that_falls_from_high_widens_high() -> None:
    grant = GRANT.replace("orders", "lake")
    found = plan(a_map(grant), a_map(grant, base=BASE.replace("tier: high", "tier: low")), NOW)
    assert found.widens_tier(Tier.HIGH)
    raised = plan(a_map(GRANT), a_map(GRANT, base=BASE.replace("tier: low", "tier: high", 1)), NOW)
    assert not raised.widens


def test_a_deny_taken_away_is_a_gain() -> None:
    deny = "denies:\n  stop: {workflows: [etl]}\n"
    found = of(GRANT + deny, GRANT)
    assert [change.refused for change in found.changes] == ["DENY_RULE: deny rule 'stop' refuses it"]
    assert not of(GRANT, GRANT + deny).widens


def test_the_order_matters_where_two_workloads_fill_in_other_things() -> None:
    base = BASE.replace(
        "  plain:",
        f"  one: {{id: 'spiffe://{DOMAIN}/a/{{x}}/{{y}}'}}\n  two: {{id: 'spiffe://{DOMAIN}/a/{{y}}/{{x}}'}}\n  plain:",
    ).replace("scopes:\n", "scopes:\n  filled: {fake: {role: '{x}'}, tier: low}\n")
    first, second = (f"  {one}: {{workloads: [{one}], workflows: ['*'], scopes: [filled]}}\n" for one in ("one", "two"))
    maps = [a_map("grants:\n" + rules, base=base) for rules in (first + second, second + first)]
    assert [change.attribute for change in plan(maps[0], maps[1], NOW).changes] == ["what is minted"]


def test_launchers_are_told_and_weigh_as_what_they_make_real() -> None:
    grant = GRANT.replace("[load]", "[plain]").replace("orders", "lake")
    found = of(grant, grant + SCHEDULER)
    assert found.lines() == [
        f"gained: launcher spiffe://{DOMAIN}/air may open steps for plain, workflow etl (launchers.air (map.yaml:16:3))"
    ]
    assert found.widens
    assert found.widens_tier(Tier.HIGH)
    assert not of(grant + SCHEDULER, grant).widens
    assert not of(grant + SCHEDULER.replace("[etl]", "[etl, ml]"), grant + SCHEDULER).widens
    assert of(grant + SCHEDULER, grant + SCHEDULER.replace("[etl]", "[etl, ml]")).widens
    until = SCHEDULER.replace("}", ", when: {until: 2027-01-01}}")
    assert of(grant + until, grant + SCHEDULER).widens
    assert not of(grant + SCHEDULER, grant + until).widens


def test_what_is_said_of_the_map_as_a_whole_widens_nothing() -> None:
    never = f"never:\n  n: {{agents: 'spiffe://{DOMAIN}/x', tier: high}}\n"
    found = of(GRANT, GRANT + never + "tiers: {high: {approvals: 2}}\n")
    assert [change.kind for change in found.changes] == [Kind.NOTE, Kind.NOTE]
    assert not found.widens
    assert found.lines()[0].startswith("note: never n none → spiffe://")


def test_a_never_that_goes_lets_the_next_map_give_it_so_it_widens_high() -> None:
    never = f"never:\n  n: {{agents: 'spiffe://{DOMAIN}/x', tier: high}}\n"
    found = of(GRANT + never, GRANT)
    assert [change.kind for change in found.changes] == [Kind.LOOSENED]
    assert found.widens_tier(Tier.HIGH)
    assert found.lines()[0].startswith("loosened: never n spiffe://")


def test_what_is_minted_differs_where_it_is_told_to_however_long_the_rest() -> None:
    actions = ", ".join(f"a{n}" for n in range(50))
    block = f"data: {{statements: [{{Action: [{actions}]}}, {{Action: [WHAT]}}]}}"
    maps = [
        a_map(GRANT, base=BASE.replace("role: orders-ro", "role: orders-ro, " + block.replace("WHAT", word)))
        for word in ("one", "'*'")
    ]
    (line,) = plan(maps[0], maps[1], NOW).lines()
    assert "what is minted data.statements.1.Action.0 'one' → data.statements.1.Action.0 '*'" in line


def test_json_and_summary_are_small_and_plain() -> None:
    found = of("", GRANT.replace("[orders]", "[orders, lake]"))
    told: Any = json.loads(json.dumps(found.to_json()))
    assert (told["widens"], told["widens_high"], told["counts"]["gained"]) == (True, True, 2)
    assert told["changes"][0]["example"]["agent"].startswith("spiffe://")
    summary: Any = json.loads(json.dumps(found.summary()))
    assert (summary["more"], len(summary["lines"])) == (0, 2)


def test_who_can_says_what_a_grant_needs_and_why_another_never_gives() -> None:
    rules = GRANT + "  other: {workloads: [plain], workflows: ['*'], scopes: [orders, scratch]}\n"
    rules += "denies:\n  stop: {workloads: [plain], scopes: [orders]}\n  some: {workflows: [etl], when: {until: 2026-06-01}}\n"
    found = who_can(a_map(rules), "orders", NOW)
    (entry,) = found.entries
    assert (entry.workload.name, entry.workflows, [deny.name for deny in entry.exceptions]) == (
        "load",
        ("etl",),
        ["some"],
    )
    assert [(one.workload.name, one.reason) for one in found.unused] == [("plain", "denied by denies.stop")]
    (needs,) = what_can(a_map(rules), f"spiffe://{DOMAIN}/*", NOW).entries
    assert (needs.scope.name, needs.needs_launcher) == ("scratch", True)


def test_what_can_of_a_launcher_says_for_whom() -> None:
    found = what_can(a_map(GRANT + SCHEDULER), f"spiffe://{DOMAIN}/air", NOW)
    assert [launcher.name for launcher in found.launchers] == ["air"]
    assert found.entries == ()
    assert [entry.scope.name for entry in what_can(a_map(GRANT), LOAD, NOW).entries] == ["orders"]
    with pytest.raises(ValueError, match="trust domain"):
        what_can(a_map(GRANT), "spiffe://elsewhere/x", NOW)


def large(number: int, **changed: Any) -> ScopeMap:
    """As many grants as said, each of a team's workload and two scopes; one workload overlaps all."""
    teams = number // 4
    ids = {f"w{n}": {"id": f"spiffe://d/workflow/{{workflow}}/team{n}/{{step}}"} for n in range(teams)}
    grants = {
        f"g{n}": {"workloads": [f"w{n % teams}"], "workflows": [f"f{n}"], "scopes": [f"s{n % teams}"]}
        for n in range(number)
    }
    world = {
        "version": 1,
        "environment": "e",
        "trust_domain": "d",
        "workloads": {**ids, "all": {"id": "spiffe://d/workflow/{workflow}/{team}/{step}"}},
        "scopes": {f"s{n}": {"fake": {"role": "r"}, "tier": "low"} for n in range(teams)},
        "grants": {**grants, **changed},
    }
    return parse(json.dumps(world), "map.yaml", KINDS)


def test_one_change_among_thousands_is_found_without_looking_at_the_others() -> None:
    old = large(2000)
    new = large(2000, g7={"workloads": ["w7"], "workflows": ["f7", "more"], "scopes": ["s7"]})
    found = Comparison(old=old, new=new, since=NOW, limit=500).changes()  # questions
    assert [change.workflows for change in found] == [("more",)]
