"""`tests:` of a scope map, run like unit tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from broker.policy.decision import AccessRequest, Decision, Denied
from broker.policy.patterns import BINDING
from broker.policy.rules import ScopeTest
from broker.policy.scope_map import ScopeMap

UNSAID = "test"  # a claim that neither the entry nor the certificate says


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one entry expected, and what the map decides."""

    test: ScopeTest
    request: AccessRequest
    decision: Decision
    passed: bool


def request_for(
    scope_map: ScopeMap,
    *,
    agent: str,
    scope: str,
    now: datetime,
    claims: Mapping[str, str | None],
    proven: bool = False,
    definition_digest: str = "",
    address: str = "",
    attempt: int = 1,
) -> AccessRequest:
    """A question in which what was not said is what the certificate says, or "test"."""
    captured = {name: value for _, captures in scope_map.workloads_of(agent) for name, value in captures.items()}
    said = {name: claims.get(name) or captured.get(name, UNSAID) for name in BINDING}
    return AccessRequest(
        agent=agent,
        scope=scope,
        now=now,
        workflow=said["workflow"],
        run=said["run"],
        step=said["step"],
        proven=proven,
        definition_digest=definition_digest,
        address=address,
        attempt=attempt,
    )


def run_tests(scope_map: ScopeMap, now: datetime) -> tuple[Outcome, ...]:
    """Run every entry; `now` is the time of those without `at`."""
    return tuple(_run(scope_map, test, now) for test in scope_map.tests)


def _run(scope_map: ScopeMap, test: ScopeTest, now: datetime) -> Outcome:
    request = request_for(
        scope_map,
        agent=test.agent,
        scope=test.ask,
        now=test.at or now,
        claims={name: getattr(test, name) for name in BINDING},
        proven=test.proven,
        definition_digest=test.definition_digest,
        address=test.address,
        attempt=test.attempt,
    )
    decision = scope_map.decide(request)
    passed = verdict(decision) == test.expect and (
        test.reason is None or (isinstance(decision, Denied) and decision.reason is test.reason)
    )
    return Outcome(test=test, request=request, decision=decision, passed=passed)


def verdict(decision: Decision) -> str:
    """In the words of `expect:`."""
    if isinstance(decision, Denied):
        return "deny"
    return "approval" if decision.approvals else "allow"
