"""What must hold of a map that loads, and of the reasons why another one does not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from broker.model import ScopeKind
from broker.policy.decision import AccessRequest, Allowed, Denied
from broker.policy.expectations import run_tests
from broker.policy.explain import explain
from broker.policy.language.files import Files
from broker.policy.lint import lint
from broker.policy.problems import ScopeMapError
from broker.policy.scope_map import ScopeMap
from broker.wiring.adapters import scope_kinds
from tests.unit.policy.kinds import KINDS as FAKE_KINDS

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
KINDS: Mapping[str, ScopeKind] = {**FAKE_KINDS, **scope_kinds()}
AGENTS = 4  # asked for, of a map's workloads
SCOPES = 6

_WORDS = r"""
version: 1|environment: |trust_domain: |workloads:|scopes:|grants:|denies:|nevers:|tiers:|teams:|tests:|launchers:|
residency:|extends: |id: |owners: |workflows: |spiffe://|{workflow}|{run}|{step}|'*'|**|ttl: |max_ttl: |max_step: |
tier: |low|elevated|high|vault: |aws: |fake: |role: |when: |between: |until: |from: |to: |days: |zone: |Europe/Berlin|
max_attempts: |source: |10.0.0.0/8|::/0|digest: |sha256:|approvals: |concurrent: |refuse|supersede|expect: |deny|allow|
approval|2026-06-01T12:00:00Z|1h30m|99999999d|&a|*a|<<: |!!python|%YAML 1.2|---|...|? |: |- |[|]|{|}|'|\"|\U00110000|\x00
"""
WORDS = tuple(word.encode() for word in _WORDS.replace("\n", "").split("|"))


def look(files: Files, root: str, found: ScopeMap) -> None:
    """A map that loads decides everything, is examined, and explains itself."""
    asked = [*[*found.scopes][:SCOPES], "no-such-scope"]
    agents = [workload.pattern.text for workload in found.workloads.values()][:AGENTS]
    for agent in [*agents, f"spiffe://{found.trust_domain}/workflow/etl/step/load"]:
        filled = agent.replace("{", "").replace("}", "")
        for scope in asked:
            request = AccessRequest(agent=filled, workflow="etl", run="r1", step="load", scope=scope, now=NOW)
            decision = found.decide(request)
            assert isinstance(decision, Allowed | Denied)
            if isinstance(decision, Allowed):
                assert decision.scope in found.scopes and found.grants, "allowed by nothing"
                json.dumps(decision.params)
            json.dumps(explain(found, request).to_json())
    run_tests(found, NOW)
    for finding in lint(files, root, KINDS, NOW):
        assert finding.message


def refused(error: ScopeMapError) -> None:
    """Reasons, in words that a terminal obeys nothing of."""
    assert error.problems
    for problem in error.problems:
        assert problem.line >= 1 and problem.column >= 1
        assert problem.message and problem.message.isprintable(), "control characters on an operator's terminal"
