from __future__ import annotations

from broker.policy.language.load import parse
from broker.wiring.dev.agents import agents_of, describe, open_patterns
from broker.wiring.dev.maps import kinds
from tests.fakes.clock import START

MAP = parse(
    """
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/workflow/{workflow}/step/load"}
  any: {id: "spiffe://dev.local/team/{team}/{step}"}
  one: {id: "spiffe://dev.local/worker"}
launchers:
  airflow: {id: "spiffe://dev.local/airflow", workloads: [one], workflows: [nightly]}
scopes:
  s: {vault: {role: r}, tier: low}
  t: {dev: {kind: token}, tier: low}
grants:
  g: {workloads: [load], workflows: [weekly, nightly], scopes: [s]}
  h: {workloads: [any, one], workflows: ["*"], scopes: [s, t]}
tests:
  - {as: "spiffe://dev.local/workflow/hourly/step/load", ask: s, expect: deny}
  - {as: "spiffe://dev.local/stranger", ask: s, expect: deny}
""",
    "scopes.yaml",
    kinds(),
)


def test_every_agent_that_the_map_speaks_of() -> None:
    found = {one.id.removeprefix("spiffe://dev.local/"): one for one in agents_of(MAP, START)}
    assert list(found) == [
        "workflow/nightly/step/load",
        "workflow/weekly/step/load",
        "worker",
        "workflow/hourly/step/load",  # of its tests, but not the stranger; it gets nothing
        "airflow",
    ]
    assert found["workflow/hourly/step/load"].scopes == ()
    assert found["workflow/weekly/step/load"].step == {"workflow": "weekly", "run": "dev-1", "step": "load"}
    assert found["worker"].scopes == ("s", "t")
    assert found["worker"].step == {"run": "dev-1", "step": "worker"}  # any workflow: nobody can say which
    assert (found["airflow"].launchers, found["airflow"].step) == (("airflow",), {})


def test_what_somebody_else_has_to_name() -> None:
    assert open_patterns(MAP, agents_of(MAP, START)) == ["spiffe://dev.local/team/{team}/{step}"]


def test_captures_name_the_step() -> None:
    one = describe(MAP, "spiffe://dev.local/team/search/index", START)
    assert (one.workloads, one.step) == (("any",), {"run": "dev-1", "step": "index"})
    assert describe(MAP, "spiffe://dev.local/stranger", START).title == "no workload of the map"
