"""`federates_with`: agents of further trust domains, each in its own patterns only."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from broker.policy.analysis.changes import Kind
from broker.policy.analysis.plan import plan
from broker.policy.analysis.reach import what_can, who_can
from broker.policy.coverage import coverage
from broker.policy.decision import Denial
from broker.policy.expectations import run_tests
from broker.policy.language.files import Memory
from broker.policy.language.load import Loaded, load_files, parse
from broker.policy.launch import Launch
from broker.policy.lint import lint
from broker.policy.live.changes import describe
from broker.policy.problems import ScopeMapError
from broker.policy.scope_map import ScopeMap
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import DOMAIN, LOAD, allowed, ask, denied

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
PARTNER = "partner.example"
THEIRS = LOAD.replace(DOMAIN, PARTNER)
HEAD = f"version: 1\nenvironment: prod\ntrust_domain: {DOMAIN}\n"
FEDERATED = HEAD + f"federates_with: [{PARTNER}]\n"
OURS = """\
scopes:
  orders: {fake: {role: "orders/{workflow}"}, tier: low}
  lake: {fake: {role: lake}, tier: high}
grants:
  ours: {workloads: [load], workflows: [etl], scopes: [orders, lake]}
"""
HOME = f"""\
workloads:
  load: {{id: "spiffe://{DOMAIN}/workflow/{{workflow}}/step/load"}}
"""
RULES = f"""\
{HOME}  theirs: {{id: "spiffe://{PARTNER}/workflow/{{workflow}}/step/load"}}
launchers:
  their-scheduler: {{id: "spiffe://{PARTNER}/scheduler", workloads: [theirs], workflows: ["*"]}}
{OURS}  shared: {{workloads: [theirs], workflows: ["*"], scopes: [orders]}}
never:
  partners-stay-low: {{agents: "spiffe://{PARTNER}/workflow/*/step/*", tier: high}}
tests:
  - {{as: "{THEIRS}", ask: orders, expect: allow}}
  - {{as: "{THEIRS}", ask: lake, expect: deny}}
  - {{as: "{LOAD}", ask: lake, expect: allow}}
"""


def a_map(text: str = FEDERATED + RULES, **named: Any) -> ScopeMap:
    return parse(text, "map.yaml", KINDS, **named)


def problems(text: str, **named: Any) -> list[str]:
    with pytest.raises(ScopeMapError) as caught:
        a_map(text, **named)
    return [str(problem) for problem in caught.value.problems]


def test_an_id_fits_workloads_of_its_own_trust_domain_only() -> None:
    scope_map = a_map()
    assert [name for name, _ in scope_map.workloads_of(LOAD)] == ["load"]
    assert [name for name, _ in scope_map.workloads_of(THEIRS)] == ["theirs"]
    assert allowed(scope_map, ask(agent=THEIRS)).params == {"role": "orders/etl"}
    assert denied(scope_map, ask("lake", agent=THEIRS)).reason is Denial.NO_GRANT
    assert allowed(scope_map, ask("lake")).rule.name == "ours"


@pytest.mark.parametrize("domain", ["other.example", f"x.{PARTNER}", PARTNER.upper(), "", f"{DOMAIN}.{PARTNER}"])
def test_nobody_of_another_trust_domain_is_anything(domain: str) -> None:
    decision = denied(a_map(), ask(agent=THEIRS.replace(PARTNER, domain)))
    assert decision.reason is Denial.NO_WORKLOAD
    assert decision.smallest_fix.startswith("# its trust domain is not the map's")


def test_captures_and_claims_of_a_federated_workload_are_held_to_its_certificate() -> None:
    assert denied(a_map(), ask(agent=THEIRS, workflow="ml")).reason is Denial.CLAIM_MISMATCH
    odd = THEIRS.replace("/etl/", "/odd.name/")
    assert denied(a_map(), ask(agent=odd, workflow="odd.name")).reason is Denial.TEMPLATE_VALUE


def test_launchers_are_of_their_own_domain_too() -> None:
    def launched(launcher: str, agent: str) -> bool:
        asked = Launch(launcher=launcher, agent=agent, workflow="etl", run="r", step="s", definition_digest="", now=NOW)
        return a_map().may_launch(asked) is not None

    assert launched(f"spiffe://{PARTNER}/scheduler", THEIRS)
    assert not launched(f"spiffe://{PARTNER}/scheduler", LOAD)
    assert not launched(f"spiffe://{DOMAIN}/scheduler", THEIRS)


def test_a_never_holds_for_the_trust_domain_that_it_names() -> None:
    wide = RULES.replace('[theirs], workflows: ["*"], scopes: [orders]', "[theirs], workflows: [etl], scopes: [lake]")
    (problem,) = problems(FEDERATED + wide)
    assert "never 'partners-stay-low' is broken by grant shared" in problem
    at_home = wide.replace(f'agents: "spiffe://{PARTNER}', f'agents: "spiffe://{DOMAIN}')
    assert a_map(FEDERATED + at_home.replace("[orders, lake]", "[orders]")).grants["shared"].scopes == ("lake",)


def test_tests_run_and_cover_as_agents_of_either_domain() -> None:
    scope_map = a_map()
    outcomes = run_tests(scope_map, NOW)
    assert [outcome.passed for outcome in outcomes] == [True] * 3
    assert coverage(scope_map, outcomes).missing == ()
    theirs = [outcome for outcome in outcomes if outcome.request.agent == THEIRS and outcome.request.scope == "lake"]
    assert len(theirs) == 1
    ours_only = [outcome for outcome in outcomes if outcome not in theirs]
    assert [part.rule.name for part in coverage(scope_map, ours_only).missing] == ["never.partners-stay-low"]


# --- what does not load ---


def test_a_domain_that_is_not_listed_is_refused_where_it_stands() -> None:
    told = f"its trust domain is not this map's, '{DOMAIN}'"
    assert problems(HEAD + RULES) == [
        f"map.yaml:{line}:{column}: {told}" for line, column in ((6, 16), (8, 25), (16, 31))
    ]
    assert problems(HEAD + "federates_with: [other.example]\n" + RULES) == [
        f"map.yaml:{line}:{column}: {told}, nor in federates_with" for line, column in ((7, 16), (9, 25), (17, 31))
    ]


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        (f"[{PARTNER}, {DOMAIN}]", "map.yaml:4:35: is this map's own trust domain"),
        (f"[{PARTNER}, {PARTNER}]", "map.yaml:4:17: an entry is listed twice"),
        ('[Partner.Example, "a/b", "*"]', "map.yaml:4:18: a trust domain is lower-case letters"),
        (PARTNER, "map.yaml:4:17: expected a list"),
        ("[{a: b}]", "map.yaml:4:18: "),
    ],
)
def test_what_is_no_list_of_other_trust_domains_is_refused(listed: str, told: str) -> None:
    text = HEAD + f"federates_with: {listed}\n" + RULES.replace(PARTNER, DOMAIN)
    assert any(problem.startswith(told) for problem in problems(text)), problems(text)


def test_a_team_cannot_add_one() -> None:
    teams = "teams: {pay: {path: pay.yaml, scopes_prefix: pay-, max_tier: low, workloads: [load]}}\n"
    team = "version: 1\nfederates_with: [other.example]\nscopes: {pay-x: {fake: {role: pay-r}, tier: low}}\n"
    files = Memory(contents={"map.yaml": (FEDERATED + RULES + teams).encode(), "pay.yaml": team.encode()})
    with pytest.raises(ScopeMapError, match=r"pay\.yaml:2:1: unknown key 'federates_with'"):
        load_files(files, "map.yaml", KINDS)


def test_the_brokers_own_federations_bound_those_of_the_map() -> None:
    (told,) = problems(FEDERATED + RULES, federations=["other.example"])
    assert told == (
        f"map.yaml:4:18: the broker does not federate with '{PARTNER}': "
        f'add [federation."{PARTNER}"] to its config, or take it out'
    )
    assert problems(FEDERATED + RULES, federations=()) == [told]
    assert a_map(federations=[PARTNER, "other.example"]).federates_with == {PARTNER}
    assert a_map(federations=None).federates_with == {PARTNER}
    assert a_map(HEAD + HOME + OURS, federations=()).federates_with == frozenset()


# --- extends ---


WITHOUT = """\
federates_with: []
workloads: {theirs: null}
launchers: null
grants: {shared: null}
never: null
tests: null
"""


def extending(patch: str) -> Loaded:
    base = FEDERATED.replace(f"[{PARTNER}]", f"[{PARTNER}, second.example]") + RULES
    texts = {"map.yaml": "extends: base.yaml\n" + patch, "base.yaml": base}
    return load_files(Memory(contents={name: text.encode() for name, text in texts.items()}), "map.yaml", KINDS)


@pytest.mark.parametrize(
    ("patch", "left"),
    [
        ("", {PARTNER, "second.example"}),
        (f"federates_with: [{PARTNER}]", {PARTNER}),
        (WITHOUT, set()),
    ],
)
def test_a_map_that_extends_another_may_federate_with_fewer(patch: str, left: set[str]) -> None:
    assert extending(patch).map.federates_with == left


def test_a_never_goes_only_with_its_trust_domain() -> None:
    with pytest.raises(ScopeMapError, match="it takes away or changes never 'partners-stay-low'"):
        extending(WITHOUT.replace("[]", f"[{PARTNER}]"))


def test_a_map_that_extends_another_may_not_federate_with_more() -> None:
    with pytest.raises(ScopeMapError) as caught:
        extending(f"federates_with: [{PARTNER}, third.example]\n")
    (problem,) = caught.value.problems
    assert str(problem).startswith("map.yaml:1:1: widens base.yaml: it federates with 'third.example'")


def test_what_is_left_of_a_domain_that_was_taken_out_is_refused_where_it_stands() -> None:
    with pytest.raises(ScopeMapError) as caught:
        extending("federates_with: [second.example]\n")
    assert [(one.file, one.line) for one in caught.value.problems] == [
        ("base.yaml", 7),
        ("base.yaml", 9),
        ("base.yaml", 17),
    ]


# --- what the tools say ---


def test_a_plan_shows_a_new_domain_and_what_its_agents_gain() -> None:
    home, named = a_map(HEAD + HOME + OURS), a_map(FEDERATED + HOME + OURS)
    (note,) = plan(home, named, NOW).changes
    assert (note.kind, note.attribute, note.before, note.after) == (Kind.NOTE, "federates_with", "none", PARTNER)
    assert not plan(home, named, NOW).widens
    told = describe(home, named, NOW)
    assert told["rules"] == {"federates_with": {"added": [PARTNER]}}
    assert told["effect"]["lines"] == [f"note: federates_with none → {PARTNER} (federates_with (map.yaml:1:1))"]
    found = plan(named, a_map(), NOW)
    gained = [(one.scope, one.workload, one.pattern) for one in found.changes if one.kind is Kind.GAINED and one.scope]
    assert gained == [("orders", "theirs", f"spiffe://{PARTNER}/workflow/{{workflow}}/step/load")]
    assert not [one for one in plan(a_map(), named, NOW).changes if one.kind is Kind.LOST and one.workload == "load"]


def test_the_same_path_in_two_domains_is_two_agents_to_a_plan() -> None:
    """Of one of them a workflow is taken away; the other one's stays."""
    both = RULES.replace('workflows: ["*"], scopes: [orders]', "workflows: [etl, ml], scopes: [orders]")
    both = both.replace("workflows: [etl], scopes: [orders, lake]", "workflows: [etl, ml], scopes: [orders, lake]")
    less = both.replace("[theirs], workflows: [etl, ml]", "[theirs], workflows: [etl]")
    (change,) = plan(a_map(FEDERATED + both), a_map(FEDERATED + less), NOW).changes
    assert (change.kind, change.workload, change.workflows) == (Kind.LOST, "theirs", ("ml",))


def test_workflows_that_are_named_in_one_domain_are_no_exceptions_in_the_other() -> None:
    ours = RULES.replace("[load], workflows: [etl]", "[load], workflows: [etl, ml]")
    nobodys = RULES.replace(
        '[theirs], workflows: ["*"], scopes: [orders]', "[theirs], workflows: [etl], scopes: [orders]"
    )
    found = plan(a_map(FEDERATED + nobodys), a_map(FEDERATED + ours), NOW).changes
    told = {(one.scope, one.workload): (one.workflows, one.but) for one in found if one.kind is Kind.GAINED}
    assert told[("orders", "load")] == (("ml",), ())
    assert told[("orders", "theirs")] == (None, ("etl",))


def test_who_can_and_what_can_tell_the_domains_apart() -> None:
    scope_map = a_map()
    assert [one.workload.name for one in who_can(scope_map, "orders", NOW).entries] == ["load", "theirs"]
    assert [one.workload.name for one in who_can(scope_map, "lake", NOW).entries] == ["load"]
    answer = what_can(scope_map, f"spiffe://{PARTNER}/workflow/*/step/*", NOW)
    assert [(one.scope.name, one.workload.name) for one in answer.entries] == [("orders", "theirs")]
    assert [one.name for one in what_can(scope_map, f"spiffe://{PARTNER}/*", NOW).launchers] == ["their-scheduler"]
    with pytest.raises(ValueError, match="nor in federates_with"):
        what_can(scope_map, "spiffe://other.example/*", NOW)


def test_lint_does_not_take_the_same_path_in_two_domains_for_the_same_certificates() -> None:
    files = Memory(contents={"map.yaml": (FEDERATED + RULES).encode()})
    found = {one.rule.id for one in lint(files, "map.yaml", KINDS, NOW)}
    assert not found & {"duplicate-workload", "overlapping-workloads"}, json.dumps(sorted(found))
