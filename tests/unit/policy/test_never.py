"""`never` is proven over patterns: a map that could break it does not load."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.policy.decision import Allowed
from broker.policy.language.load import parse
from broker.policy.patterns import PatternIndex, parse_pattern
from broker.policy.problems import ScopeMapError
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import DOMAIN, a_map, ask

GRANT = "grants:\n  nightly: {workloads: [load], workflows: [etl], scopes: [orders, lake]}\n"


def never(text: str) -> str:
    return GRANT + f"never:\n  rule: {{agents: 'spiffe://{DOMAIN}/{text}}}\n"


@pytest.mark.parametrize(
    "rule",
    [
        "workflow/*/step/load', tier: high",
        "workflow/*/step/load', tier: elevated",  # a tier and those above it
        "workflow/etl/step/load', tier: low",
        "workflow/*/step/*', scopes: [orders]",
        "*/*/*/*', scopes: [lake], tier: high",
        "workflow/*/step/load'",
    ],
)
def test_a_map_in_which_a_grant_could_give_it_does_not_load(rule: str) -> None:
    with pytest.raises(
        ScopeMapError, match=r"map\.yaml:16:3: never 'rule' is broken by grant nightly \(map\.yaml:14:3\)"
    ):
        a_map(never(rule))


@pytest.mark.parametrize(
    "rule",
    [
        "workflow/*/step/report', tier: high",
        "workflow/other/step/load', tier: low",  # the capture is bound to the grant's workflows
        "workflow/*/step', tier: low",
        "workflow/*/step/load', scopes: [scratch]",
        "workflow/*/step/load', scopes: [orders], tier: high",
        "plain', tier: low",
    ],
)
def test_a_never_that_no_grant_can_break_loads(rule: str) -> None:
    a_map(never(rule)).decide(ask())


SEGMENTS = st.sampled_from(["a", "b"])
PATTERNS = st.lists(SEGMENTS | st.sampled_from(["{workflow}", "{x}"]), min_size=1, max_size=3).filter(
    lambda parts: len([p for p in parts if p[0] == "{"]) == len({p for p in parts if p[0] == "{"})
)
NEVERS = st.lists(SEGMENTS | st.just("*"), min_size=1, max_size=3)
FLOWS = st.just(["*"]) | st.lists(SEGMENTS, min_size=1, max_size=2, unique=True)


@given(PATTERNS, NEVERS, FLOWS)
def test_never_refuses_exactly_the_maps_in_which_some_agent_could_get_it(
    pattern: list[str], forbidden: list[str], flows: list[str]
) -> None:
    base = "version: 1\nenvironment: e\ntrust_domain: d\n"
    base += (
        f"workloads: {{w: {{id: 'spiffe://d/{'/'.join(pattern)}'}}}}\nscopes: {{s: {{fake: {{role: r}}, tier: low}}}}\n"
    )
    base += f"grants: {{g: {{workloads: [w], workflows: {flows}, scopes: [s]}}}}\n"
    free = parse(base, "map.yaml", KINDS)
    rule: PatternIndex[bool] = PatternIndex()
    rule.add(parse_pattern(f"spiffe://d/{'/'.join(forbidden)}", trust_domain="d", wildcard=True), True)
    broken = False
    for agent in universe(3):
        for flow in ("a", "b", "c"):
            gets = isinstance(free.decide(ask("s", agent=agent, workflow=flow)), Allowed)
            broken = broken or (gets and any(rule.match(agent)))
    try:
        parse(base + f"never: {{n: {{agents: 'spiffe://d/{'/'.join(forbidden)}'}}}}\n", "map.yaml", KINDS)
        refused = False
    except ScopeMapError:
        refused = True
    assert refused is broken


def universe(depth: int) -> list[str]:
    """Every agent of up to three segments of a, b, c: enough to meet every literal and one that is none."""
    level, found = ["spiffe://d"], []
    for _ in range(depth):
        level = [f"{agent}/{segment}" for agent in level for segment in "abc"]
        found += level
    return found
