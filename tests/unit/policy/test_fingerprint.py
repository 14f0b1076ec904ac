"""What an approval is bound to: what the rules say, not which of them match at this minute."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.unit.policy.maps import BASE, LOAD, a_map, allowed, ask

SCOPE = "tier: high, ttl: 5m, max_ttl: 1h"
NEEDS = BASE.replace(SCOPE, SCOPE + ", approvals: 1").replace('"}\n', '", owners: [ann]}\n')
GRANTS = """\
grants:
  always: {workloads: [load], workflows: [etl], scopes: [lake], max_step: 2h}
  noon: {workloads: [load], workflows: [etl], scopes: [lake], when: {daily: {from: "11:00", to: "13:00", tz: UTC}}}
  office: {workloads: [load], workflows: [etl], scopes: [lake], when: {networks: ["10.0.0.0/8"]}}
  once: {workloads: [load], workflows: [etl], scopes: [lake], attempts: 1}
  weekly: {workloads: [load], workflows: [weekly], scopes: [lake]}
  strangers: {workloads: [team], scopes: [lake], workflows: [etl]}
"""
CODE, OTHER_CODE = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def digest(rules: str = GRANTS, *, base: str = NEEDS, **asked: Any) -> str:
    found = allowed(a_map(rules, base=base), ask("lake", **asked)).approval_digest
    assert len(found) == 64
    return found


@pytest.mark.parametrize(
    "asked",
    [
        {"now": datetime(2026, 6, 1, 20, tzinfo=UTC)},
        {"now": datetime(2026, 6, 1, 12, 59, 30, tzinfo=UTC)},
        {"address": "10.1.1.1"},
        {"address": "192.168.1.1"},
        {"attempt": 2},
        {"run": "r2", "step": "other"},
        {"definition_digest": CODE},  # a mere claim
    ],
)
def test_when_where_and_how_often_it_is_asked_changes_nothing(asked: dict[str, Any]) -> None:
    assert digest(**asked) == digest()


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("max_step: 2h", "max_step: 1h"),
        ('to: "13:00"', 'to: "14:00"'),  # of one that matches
        ("10.0.0.0/8", "10.0.0.0/9"),  # of one that does not
        ("attempts: 1", "attempts: 2"),
        ("  always:", "  more: {workloads: [load], workflows: ['*'], scopes: [lake]}\n  always:"),
        ("workloads: [load], workflows: [weekly]", "workloads: [load], workflows: [weekly, etl]"),
    ],
)
def test_an_edited_grant_changes_it_whether_it_matches_now_or_not(before: str, now: str) -> None:
    assert before in GRANTS
    assert digest(GRANTS.replace(before, now, 1)) != digest()


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("scopes: [lake]}\n  strangers", "scopes: [lake], max_step: 1h}\n  strangers"),  # of another workflow
        ("workflows: [etl]}\n", "workflows: [etl], max_step: 1h}\n"),  # of another workload
        ("  always:", "  # a line more\n  always:"),
    ],
)
def test_what_is_none_of_its_grants_changes_nothing(before: str, now: str) -> None:
    assert before in GRANTS
    assert digest(GRANTS.replace(before, now, 1)) == digest()


def test_scope_and_tier_are_part_of_it() -> None:
    assert digest(base=NEEDS.replace("lake/{workflow}/x", "lake/{workflow}/y")) != digest()
    assert digest(base=NEEDS.replace("ttl: 5m", "ttl: 4m")) != digest()
    assert digest(GRANTS + "tiers: {high: {budget: 2}}\n") != digest()


def test_so_is_the_code_that_a_launcher_has_proven() -> None:
    assert (
        len({digest(), digest(proven=True, definition_digest=CODE), digest(proven=True, definition_digest=OTHER_CODE)})
        == 3
    )
    assert digest(proven=True) == digest()  # it has named none


def test_so_is_the_workload_whose_owners_say_nothing() -> None:
    """One certificate fits two; which one counts is decided by what is known of the step."""
    two = NEEDS.replace("  plain:", f'  also: {{id: "{LOAD}", owners: [eve]}}\n  plain:')
    both = a_map("grants: {g: {workloads: [load, also], workflows: [etl], scopes: [lake]}}\n", base=two)
    claimed, proven = allowed(both, ask("lake")), allowed(both, ask("lake", proven=True))
    assert (claimed.workload, proven.workload) == ("load", "also")
    assert claimed.params == proven.params
    assert claimed.approval_digest != proven.approval_digest
