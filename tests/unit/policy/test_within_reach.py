"""What is told of every scope within reach agrees with what `decide` would answer, and is bounded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from broker.policy import within_reach as module
from broker.policy.decision import AccessRequest, Allowed, Decision, Denial, Denied
from broker.policy.language.load import parse
from broker.policy.scope_map import ScopeMap
from broker.policy.within_reach import (
    MAX_DENIES,
    MAX_GRANTS,
    MAX_SCOPES,
    MAX_WORKFLOWS,
    ReachableScope,
    ReachingGrant,
    within_reach,
)
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, DOMAIN, LOAD, a_map
from tests.unit.policy.test_decide_properties import DIGESTS, World, worlds

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
TEAM = f"spiffe://{DOMAIN}/team/a.b/run/r.7"


def reached(scope_map: ScopeMap, agent: str = LOAD, now: datetime = NOW) -> dict[str, ReachableScope]:
    return {one.scope.name: one for one in within_reach(scope_map, agent, now).scopes}


def whole_reach(scope_map: ScopeMap, agent: str, now: datetime) -> dict[str, ReachableScope]:
    """With nothing left out: one grant for three workloads of a certificate counts three times."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "MAX_GRANTS", 1000)
        return reached(scope_map, agent, now)


def granting(**more: str) -> str:
    keys = {"workloads": "[load]", "workflows": "[etl]", "scopes": "[orders]"} | more
    return "grants: {nightly: {" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}}\n"


def only(**more: str) -> ReachingGrant:
    base = BASE.replace('step/load"}', 'step/load", owners: [ann]}')
    (found,) = reached(a_map(granting(**more), base=base)).values()
    (grant,) = found.grants
    return grant


def fits(grant: ReachingGrant, request: AccessRequest) -> bool:
    named = not grant.workflows or request.workflow in grant.workflows
    return named and not any(words.startswith("never") for words in grant.conditions)


AGENTS = [f"spiffe://{path}" for path in ("d/w/etl", "d/w/odd.name", "d/w/etl/r1", "d/x/y", "p/w/etl", "q/w/etl")]
AT = [NOW, NOW + timedelta(hours=11)]


def questions(agent: str, now: datetime) -> Iterator[AccessRequest]:
    """Of one agent at one time, so that conditions of each sort hold, and do not."""
    workflows, scopes = ("etl", "ml", "odd.name"), ("plain", "by-workflow", "by-run", "unknown")
    from_where, attempts, proofs = ("10.1.2.3", "192.0.2.1"), (1, 4), ((False, ""), (True, DIGESTS[0]))
    for workflow, scope, address, attempt, (proven, digest) in product(workflows, scopes, from_where, attempts, proofs):
        yield AccessRequest(
            agent=agent,
            workflow=workflow,
            run="r1",
            step="s",
            scope=scope,
            now=now,
            proven=proven,
            definition_digest=digest,
            address=address,
            attempt=attempt,
        )


@given(world=worlds)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_it_agrees_with_every_decision(world: World) -> None:
    scope_map = parse(world.text(), "map.yaml", KINDS)
    for agent, now in product(AGENTS, AT):
        found = whole_reach(scope_map, agent, now)
        assert set(found) == set(scope_map.scopes_of(agent))
        for request in questions(agent, now):
            assert disagreement(found.get(request.scope), request, scope_map.decide(request)) == ""


def disagreement(found: ReachableScope | None, request: AccessRequest, decision: Decision) -> str:
    """Between what is told of a scope and what is answered; "" when there is none."""
    if isinstance(decision, Denied) and not decision.known:
        return "reached" if found else ""
    if found is None:
        return "not reached"
    fitting = [one for one in found.grants if fits(one, request)]
    if isinstance(decision, Allowed):
        if decision.rule not in [one.grant.rule for one in fitting]:
            return f"{decision.rule} allows it"
        return "" if all(words.endswith("under its conditions") for words in found.refused_by) else "not refused"
    if decision.reason is Denial.DENY_RULE:
        return "" if any(str(decision.rule) in words for words in found.refused_by) else f"{decision.rule} is missing"
    told = decision.reason is Denial.CLAIM_MISMATCH or all(one.conditions for one in fitting)
    return "" if told else f"a condition is missing: {decision.reason.value}"


def test_a_grant_without_conditions() -> None:
    found = reached(a_map(granting(max_step="2h")))["orders"]
    assert (found.scope.provider, found.grants_left_out, found.refused_by) == ("fake", 0, ())
    (grant,) = found.grants
    assert (grant.grant.rule.name, grant.workload, grant.workflows) == ("nightly", "load", ("etl",))
    assert (grant.approvals, grant.conditions) == (0, ())
    assert only(workflows='["*"]').workflows == ()


def test_every_condition_has_its_words() -> None:
    when = '{until: 2027-01-01, daily: {from: "22:00", to: "06:00", tz: UTC, days: [mon]}, networks: [10.0.0.0/8]}'
    grant = only(when=when, definition_digest=f'["sha256:{"a" * 64}"]', attempts="2", approvals="2", max_step="2h")
    assert grant.approvals == 2
    assert grant.conditions == (
        "the workflow's definition is pinned: a launcher has to open the step",
        "until 2027-01-01 00:00Z",
        "between 22:00 and 06:00 UTC on mon",
        "for calls from 10.0.0.0/8",
        "for the first 2 attempts of a step",
    )
    assert only(when="{until: 2026-06-01}").conditions == ("over since 2026-06-01 00:00Z",)


def test_what_a_certificate_rules_out_is_said() -> None:
    assert only(workflows="[ml]").conditions == ("never with this certificate, which says workflow 'etl'",)
    base = BASE.replace("/team/{team}/run/{run}", "/team/{team}/run/{name}")
    grants = 'grants: {g: {workloads: [team], workflows: ["*"], scopes: [scratch]}}\n'
    (grant,) = reached(a_map(grants), TEAM)["scratch"].grants
    assert grant.conditions == ("never with this certificate: its run must not fill {run}",)
    (grant,) = reached(a_map(grants, base=base), TEAM)["scratch"].grants
    assert grant.conditions == ("a launcher has to open the step: the scope uses {run}",)


def test_deny_rules_are_named_where_they_may_concern_it() -> None:
    rules = """\
denies:
  always: {scopes: [orders]}
  at-night: {when: {daily: {from: "22:00", to: "06:00", tz: UTC}}}
  here: {workflows: [etl]}
  elsewhere: {workflows: [ml]}
  over: {when: {until: 2026-01-01}}
  of-others: {workloads: [plain]}
"""
    (found,) = reached(a_map(granting() + rules)).values()
    assert [words.partition(" (")[0] for words in found.refused_by] == [
        "denies.always",
        "denies.at-night",
        "denies.here",
    ]
    always, at_night, _ = found.refused_by
    assert always.endswith(") refuses it")
    assert at_night.endswith(") refuses it under its conditions")


def test_scopes_of_others_are_not_there() -> None:
    scope_map = a_map(granting())
    assert not reached(scope_map, TEAM)
    assert not reached(scope_map, "spiffe://elsewhere/x")


def test_all_of_it_is_bounded() -> None:
    scopes = [f"s{number:03}" for number in range(MAX_SCOPES + 3)]
    flows = [f"w{number}" for number in range(MAX_WORKFLOWS + 2)]
    grant: dict[str, Any] = {"workloads": ["load"], "workflows": ["etl", *flows], "scopes": scopes}
    doc = {
        "version": 1,
        "environment": "prod",
        "trust_domain": DOMAIN,
        "workloads": {"load": {"id": LOAD, "owners": ["ann"]}},
        "scopes": {name: {"fake": {"role": "r"}, "tier": "low"} for name in scopes},
        "grants": {f"g{number}": grant for number in range(MAX_GRANTS + 1)},
        "denies": {f"d{number}": {} for number in range(MAX_DENIES + 1)},
    }
    reach = within_reach(parse(json.dumps(doc), "map.yaml", KINDS), LOAD, NOW)
    assert (len(reach.scopes), reach.left_out) == (MAX_SCOPES, 3)
    first = reach.scopes[0]
    assert (len(first.grants), first.grants_left_out, len(first.refused_by)) == (MAX_GRANTS, 1, MAX_DENIES)
    assert (len(first.grants[0].workflows), first.grants[0].workflows_left_out) == (MAX_WORKFLOWS, 3)
