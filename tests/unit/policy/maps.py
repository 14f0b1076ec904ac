"""A small good map, and questions to it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from broker.policy.decision import AccessRequest, Allowed, Denied
from broker.policy.language.load import parse
from broker.policy.scope_map import ScopeMap
from tests.unit.policy.kinds import KINDS

DOMAIN = "prod.acme.internal"
LOAD = f"spiffe://{DOMAIN}/workflow/etl/step/load"
HEAD = f"version: 1\nenvironment: prod\ntrust_domain: {DOMAIN}\n"
BASE = (
    HEAD
    + f"""
workloads:
  load: {{id: "spiffe://{DOMAIN}/workflow/{{workflow}}/step/load"}}
  plain: {{id: "spiffe://{DOMAIN}/plain"}}
  team: {{id: "spiffe://{DOMAIN}/team/{{team}}/run/{{run}}"}}
scopes:
  orders: {{fake: {{role: orders-ro}}, tier: low}}
  lake: {{fake: {{role: "lake/{{workflow}}/x"}}, tier: high, ttl: 5m, max_ttl: 1h}}
  scratch: {{fake: {{role: "{{run}}"}}, tier: low}}
"""
)


def a_map(rules: str = "", *, base: str = BASE) -> ScopeMap:
    return parse(base + rules, "map.yaml", KINDS)


def ask(scope: str = "orders", *, agent: str = LOAD, **fields: Any) -> AccessRequest:
    said: dict[str, Any] = {"workflow": "etl", "run": "r1", "step": "load", "now": datetime(2026, 6, 1, 12, tzinfo=UTC)}
    return AccessRequest(agent=agent, scope=scope, **(said | fields))


def allowed(scope_map: ScopeMap, request: AccessRequest) -> Allowed:
    decision = scope_map.decide(request)
    assert isinstance(decision, Allowed), decision
    return decision


def denied(scope_map: ScopeMap, request: AccessRequest) -> Denied:
    decision = scope_map.decide(request)
    assert isinstance(decision, Denied), decision
    return decision
