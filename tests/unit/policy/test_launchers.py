"""`launchers:`: who may open steps for whom; what it says is proven, and only as long as it may say it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from broker.policy.language.load import parse
from broker.policy.launch import Launch
from broker.policy.problems import ScopeMapError
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, DOMAIN, LOAD, a_map

AIRFLOW = f"spiffe://{DOMAIN}/scheduler/airflow"
A, B = ("sha256:" + letter * 64 for letter in "ab")
LAUNCHERS = f"""launchers:
  airflow:
    id: "{AIRFLOW}"
    workloads: [load, team]
    workflows: [etl]
    definition_digest: ["{A}"]
    when: {{until: 2027-01-01, daily: {{from: "01:00", to: "23:00", tz: UTC}}}}
  per-flow:
    id: "spiffe://{DOMAIN}/scheduler/{{workflow}}/{{run}}"
    workloads: [load]
    workflows: ["*"]
"""


def launch(**fields: Any) -> Launch:
    said: dict[str, Any] = {
        "launcher": AIRFLOW,
        "agent": LOAD,
        "workflow": "etl",
        "run": "r1",
        "step": "load",
        "definition_digest": A,
        "now": datetime(2026, 6, 1, 12, tzinfo=UTC),
    }
    return Launch(**(said | fields))


def test_a_launcher_may_open_what_its_rule_names() -> None:
    rule = a_map(LAUNCHERS).may_launch(launch())
    assert str(rule) == "launchers.airflow (map.yaml:14:3)"


@pytest.mark.parametrize(
    "other",
    [
        {"launcher": LOAD},  # a workload is no launcher, not even of itself
        {"launcher": AIRFLOW + "/x"},
        {"launcher": "junk"},
        {"launcher": AIRFLOW.replace(DOMAIN, "evil.internal")},
        {"agent": f"spiffe://{DOMAIN}/plain"},  # a workload, and not one of its own
        {"agent": f"spiffe://{DOMAIN}/unknown"},
        {"agent": "junk"},
        {"workflow": "ml"},
        {"definition_digest": B},
        {"definition_digest": ""},
        {"now": datetime(2027, 1, 1, 12, tzinfo=UTC)},
        {"now": datetime(2026, 6, 1, 0, 30, tzinfo=UTC)},
        {"now": datetime(2026, 6, 1, 12)},  # noqa: DTZ001  # cannot be evaluated
    ],
)
def test_and_nothing_else(other: dict[str, Any]) -> None:
    assert a_map(LAUNCHERS).may_launch(launch(**other)) is None


def test_what_its_own_certificate_says_binds_it() -> None:
    scope_map = a_map(LAUNCHERS)
    own = f"spiffe://{DOMAIN}/scheduler/etl/r1"
    assert scope_map.may_launch(launch(launcher=own, definition_digest="")) is not None
    assert scope_map.may_launch(launch(launcher=own, workflow="ml")) is None
    assert scope_map.may_launch(launch(launcher=own, run="r2")) is None


def test_without_launchers_nobody_is_one() -> None:
    assert a_map().may_launch(launch()) is None


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("{id: x, workloads: [load], workflows: ['*']}", "expected spiffe://trust-domain/segment/"),
        ("{id: 'spiffe://other/x', workloads: [load], workflows: ['*']}", "its trust domain is not this map's"),
        (
            f"{{id: '{AIRFLOW}', workloads: [laod], workflows: ['*']}}",
            "no workload is named 'laod'; did you mean 'load'?",
        ),
        (f"{{id: '{AIRFLOW}', workloads: [load]}}", "'workflows' is missing"),
        (f"{{id: '{AIRFLOW}', workloads: [], workflows: ['*']}}", "an empty list never allows anything"),
        (
            f"{{id: '{AIRFLOW}', workloads: [load], workflows: ['*'], when: {{networks: [10.0.0.0/8]}}}}",
            "unknown key 'networks'",
        ),
    ],
)
def test_a_mistake_in_one_is_told(entry: str, told: str) -> None:
    with pytest.raises(ScopeMapError) as caught:
        parse(BASE + f"launchers: {{l: {entry}}}\n", "map.yaml", KINDS)
    assert told in str(caught.value)


def test_its_word_is_no_proof_for_a_workload_that_is_not_its_own() -> None:
    wide = BASE.replace(
        "scopes:\n", f'  wide: {{id: "spiffe://{DOMAIN}/workflow/{{workflow}}/step/{{step}}"}}\nscopes:\n'
    )
    launcher = f'launchers: {{l: {{id: "{AIRFLOW}", workloads: [wide], workflows: ["*"]}}}}\n'
    scope_map = a_map(launcher, base=wide)
    assert scope_map.may_launch(launch()) is None  # the agent is `load`, too, whose grants would be met
    assert scope_map.may_launch(launch(agent=LOAD.replace("step/load", "step/mail"), step="mail")) is not None
