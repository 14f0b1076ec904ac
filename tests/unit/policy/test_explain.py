"""The story of a decision, as an operator reads it."""

from __future__ import annotations

from broker.policy.explain import explain
from tests.unit.policy.maps import LOAD, a_map, ask

RULES = """grants:
  nightly: {workloads: [load], workflows: [etl], scopes: [orders]}
  dawn: {workloads: [load], workflows: [ml], scopes: [orders], when: {until: 2026-01-01}}
"""


def test_an_allowed_story_names_rule_bounds_and_the_other_grants() -> None:
    assert explain(a_map(RULES), ask()).lines() == [
        f"'{LOAD}' asks for 'orders' at 2026-06-01T12:00+00:00",
        "claims: workflow 'etl', run 'r1', step 'load'",
        "ALLOWED by nightly (map.yaml:14:3)",
        "  fake, tier low, EXACT, ttl 15m",
        "certificate fits workloads.load (map.yaml:6:3) with workflow=etl",
        "grant nightly (map.yaml:14:3): matches",
        "grant dawn (map.yaml:15:3): does not match",
        "  WORKFLOW_NOT_GRANTED: grant 'dawn' does not name workflow 'etl'",
        "  GRANT_OVER: grant 'dawn' ended at 2026-01-01T00:00Z",
    ]


def test_a_denied_story_names_the_nearest_grant_and_the_smallest_change() -> None:
    lines = explain(a_map(RULES), ask(agent=LOAD.replace("etl", "x"), workflow="x")).lines()
    assert lines[2:8] == [
        "DENIED WORKFLOW_NOT_GRANTED: grant 'nightly' does not name workflow 'x'",
        "  rule: nightly (map.yaml:14:3)",
        "  smallest change that would allow it:",
        "    grants:",
        "      nightly:",
        "        workflows: [etl, x]",
    ]


def test_a_story_about_a_scope_the_agent_may_not_know_says_so() -> None:
    assert (
        "  (the agent itself is told none of this: no grant gives it this scope)"
        in explain(a_map(RULES), ask("lake")).lines()
    )


def test_an_agent_s_words_cannot_steer_the_operator_s_terminal() -> None:
    story = explain(a_map(RULES), ask(agent="spiffe://x\x1b[2J/\u202e", workflow="\x07", scope="\n"))
    assert all(line.isprintable() for line in story.lines())


def test_what_a_step_is_held_to_is_told() -> None:
    held = explain(a_map(RULES.replace("scopes: [orders]", "scopes: [orders], bind: key", 1)), ask())
    assert held.lines()[3].endswith(", to the key of the step's first call only")
    assert (held.to_json()["bind"], explain(a_map(RULES), ask()).to_json()["bind"]) == ("key", "identity")


def test_json_has_the_same_story() -> None:
    story = explain(a_map(RULES), ask("lake")).to_json()
    assert (story["allowed"], story["reason"], story["known"]) == (False, "NO_GRANT", False)
    assert story["rule"] == {"name": "nightly", "file": "map.yaml", "line": 14}
    assert story["workloads"] == [{"name": "load", "captures": {"workflow": "etl"}}]


def test_a_misspelt_scope_has_a_hint() -> None:
    story = explain(a_map(RULES), ask("ordres"))
    message = "no scope is named 'ordres'; did you mean 'orders'?"
    assert f"DENIED UNKNOWN_SCOPE: {message}" in story.lines()
    assert story.to_json()["message"] == message
    assert not explain(a_map(RULES), ask("lake")).hint
