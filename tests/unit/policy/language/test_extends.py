"""`extends`: one file over another, joined key by key; every mistake at its place in the file where it stands."""

from __future__ import annotations

import pytest

from broker.policy.language.files import Memory
from broker.policy.language.load import Loaded, load_files
from broker.policy.problems import ScopeMapError
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import allowed, ask, denied

BASE = """version: 1
environment: any
trust_domain: any
constants: {account: null, flavour: plain}
workloads:
  load: {id: "spiffe://{trust_domain}/workflow/{workflow}/step/load", owners: [ann]}
  report: {id: "spiffe://{trust_domain}/workflow/{workflow}/step/report"}
scopes:
  orders: {fake: {role: "{account}/{flavour}"}, tier: low, ttl: 10m, max_ttl: 1h}
  lake: {fake: {role: lake}, tier: high}
grants:
  nightly: {workloads: [load, report], workflows: [etl, ml], scopes: [orders, lake], max_step: 2h}
  daily: {workloads: [report], workflows: [etl], scopes: [orders]}
never:
  reports-stay-low: {agents: "spiffe://{trust_domain}/workflow/*/step/nobody", tier: high}
tests:
  - {as: "spiffe://{trust_domain}/workflow/etl/step/load", ask: orders, expect: allow}
"""
HEAD = """version: 1
extends: base.yaml
environment: prod
trust_domain: prod.acme.internal
constants: {account: "123"}
"""


def load(child: str, base: str = BASE, **more: str) -> Loaded:
    contents = {"prod.yaml": child, "base.yaml": base} | {name.replace("__", "/"): text for name, text in more.items()}
    return load_files(Memory(contents={name: text.encode() for name, text in contents.items()}), "prod.yaml", KINDS)


def problems(child: str, base: str = BASE) -> list[str]:
    with pytest.raises(ScopeMapError) as caught:
        load(child, base)
    return [str(problem) for problem in caught.value.problems]


def test_the_base_is_the_same_under_the_child_s_environment_and_constants() -> None:
    loaded = load(HEAD)
    assert (loaded.map.environment, loaded.map.trust_domain) == ("prod", "prod.acme.internal")
    decision = allowed(loaded.map, ask("orders"))
    assert decision.params == {"role": "123/plain"}
    assert str(decision.rule) == "nightly (base.yaml:12:3)"
    assert sorted(loaded.contents) == ["base.yaml", "prod.yaml"]
    assert loaded.map.tests[0].agent == "spiffe://prod.acme.internal/workflow/etl/step/load"


def test_what_the_child_says_replaces_and_null_takes_away() -> None:
    scope_map = load(
        HEAD
        + "scopes: {orders: {ttl: 5m}}\n"
        + "grants:\n  daily: null\n  nightly: {workflows: [etl], max_step: 1h}\n"
        + "tests:\n  - {as: 'spiffe://prod.acme.internal/x', ask: lake, expect: deny}\n"
    ).map
    assert sorted(scope_map.grants) == ["nightly"]
    decision = allowed(scope_map, ask("orders"))
    assert decision.ttl.total_seconds() == 300
    assert decision.max_step.total_seconds() == 3600
    assert decision.rule.position == "prod.yaml:9:3"  # where it was changed
    denied(scope_map, ask("orders", agent="spiffe://prod.acme.internal/workflow/ml/step/load", workflow="ml"))
    assert [test.rule.position for test in scope_map.tests] == ["base.yaml:17:5", "prod.yaml:11:5"]


def test_a_mistake_is_told_in_the_file_where_it_stands() -> None:
    assert problems(HEAD + "scopes: {orders: {ttl: 5}}\n") == [
        "prod.yaml:6:24: expected a duration such as 90s, 10m, 1h or 7d"
    ]
    broken = BASE.replace("ttl: 10m", "ttl: 10")
    assert problems(HEAD, broken)[0].startswith("base.yaml:9:65: expected a duration")


@pytest.mark.parametrize(
    ("child", "told"),
    [
        ("version: 1\nextends: prod.yaml\n", "prod.yaml:2:10: 'prod.yaml' extends this file: a circle"),
        ("version: 1\nextends: no.yaml\n", "prod.yaml:2:10: no.yaml does not exist"),
        ("version: 1\nextends: /etc/passwd\n", "prod.yaml:2:10: expected the path of a file, relative to this one"),
        ("version: 1\nextends: 'a\\b'\n", "prod.yaml:2:10: expected the path of a file"),
        (HEAD + "grants: {dialy: null}\n", "prod.yaml:6:17: null takes a key away, and base.yaml has none"),
        (HEAD.replace('"123"', "null"), "prod.yaml:5:22: has no value; a map that extends this one gives it"),
        (HEAD.replace('"123"', "123"), "prod.yaml:5:22: a constant is text of A-Z a-z 0-9 . _ -; put it in quotes"),
        (HEAD.replace('"123"', '"a/../b"'), "prod.yaml:5:22: a constant is text"),
        (HEAD.replace("account", "run"), "prod.yaml:5:18: base.yaml has no such constant; only null may be filled in"),
        (HEAD.replace('"123"', '"123", flavour: other'), "prod.yaml:5:38: base.yaml says what it is; only null may be"),
    ],
)
def test_what_cannot_be_joined(child: str, told: str) -> None:
    assert any(told in problem for problem in problems(child)), problems(child)


def test_files_upon_files_are_bounded() -> None:
    contents = {f"{n}.yaml": f"version: 1\nextends: {n + 1}.yaml\n".encode() for n in range(7)}
    with pytest.raises(ScopeMapError, match="more than 5 files, one upon the other"):
        load_files(Memory(contents=contents), "0.yaml", KINDS)


def test_a_constant_in_an_id_is_its_text_and_captures_nothing() -> None:
    scope_map = load(HEAD + "workloads: {other: {id: 'spiffe://{trust_domain}/{flavour}/{step}'}}\n").map
    assert scope_map.workloads["other"].pattern.text == "spiffe://prod.acme.internal/plain/{step}"
