"""What loads, and is probably not meant; and a map's own tests."""

from __future__ import annotations

from datetime import UTC, datetime

from broker.policy.expectations import run_tests
from broker.policy.lint import warnings
from tests.unit.policy.maps import LOAD, a_map

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def test_lint_points_at_what_is_unused_and_at_what_rests_on_claims() -> None:
    scope_map = a_map("grants:\n  g: {workloads: [plain], workflows: [etl], scopes: [lake, scratch]}\n")
    assert [str(problem) for problem in warnings(scope_map)] == [
        "map.yaml:6:1: workloads.load: no grant names this workload",
        "map.yaml:8:1: workloads.team: no grant names this workload",
        "map.yaml:10:1: scopes.orders: no grant gives this scope",
        "map.yaml:12:1: scopes.scratch: {run} takes A-Z a-z 0-9 _ - only: Airflow's run ids never fit",
        "map.yaml:14:1: g: lake is high, and plain only claims its workflow",
        "map.yaml:14:1: g: lake uses {workflow}: plain needs a launcher for it",
        "map.yaml:14:1: g: scratch uses {run}: plain needs a launcher for it",
    ]


def test_a_map_s_own_tests_take_unsaid_claims_from_the_certificate() -> None:
    scope_map = a_map(f"""grants:
  g: {{workloads: [load], workflows: [etl], scopes: [orders], when: {{daily: {{from: "11:00", to: "13:00", tz: UTC}}}}}}
tests:
  - {{as: "{LOAD}", ask: orders, expect: allow}}
  - {{as: "{LOAD}", ask: orders, at: "2026-01-01T14:00Z", expect: deny, reason: OUTSIDE_WINDOW}}
  - {{as: "{LOAD}", ask: orders, workflow: other, expect: deny, reason: CLAIM_MISMATCH}}
  - {{as: "{LOAD}", ask: orders, expect: deny}}
  - {{as: "{LOAD}", ask: lake, expect: allow}}
  - {{as: "{LOAD}", ask: lake, expect: deny, reason: OUTSIDE_WINDOW}}
""")
    outcomes = run_tests(scope_map, NOW)
    assert [outcome.passed for outcome in outcomes] == [True, True, True, False, False, False]
    assert str(outcomes[0].test.rule) == "tests.1 (map.yaml:16:5)"
