from __future__ import annotations

from pathlib import Path

import pytest

from broker.model import Revocability
from broker.policy.language.load import load, parse
from broker.policy.problems import ScopeMapError
from broker.providers.dev.scope import DevScope, Shape
from broker.wiring import adapters
from broker.wiring.dev import maps
from tests.fakes.clock import START

MAP = """
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/step/load"}
scopes:
  orders: {dev: {kind: login, values: {password: hunter2}}, tier: low}
grants:
  nightly: {workloads: [load], workflows: ["*"], scopes: [orders]}
"""


@pytest.mark.parametrize("shape", Shape)
def test_every_kind_is_as_dead_as_the_real_one(shape: Shape) -> None:
    block = {"kind": shape.value}
    assert DevScope().validate(block) == []
    assert DevScope().revocability(block) is shape.revocability


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({}, "Field required"),
        ({"kind": "database"}, "expected one of token, login, aws, values, x509, ssh"),
        ({"kind": "token", "values": {"password": "x"}}, "has no value 'password': it has address, namespace, token"),
        ({"kind": "ssh", "values": {"key": "x"}}, "all of it is made by the broker"),
        ({"kind": "login", "fail": "sometimes"}, "'refused' or 'lost'"),
        ({"kind": "login", "role": "x"}, "Extra inputs are not permitted"),
        ({"kind": "values", "values": {"n": 1}}, "valid string"),
    ],
)
def test_mistakes(block: dict[str, object], said: str) -> None:
    assert said in "; ".join(message for _, message in DevScope().validate(block))


def test_two_scopes_share_no_power() -> None:
    scope = DevScope()
    one, other = {"kind": "login"}, {"kind": "login", "values": {"username": "x"}}
    assert scope.powers(one) != scope.powers(other)
    assert scope.powers(one) == scope.powers(dict(one))


def test_a_map_with_dev_scopes_is_for_the_dev_broker_alone(tmp_path: Path) -> None:
    """`serve`, `check` and `scopes` read maps with `adapters.scope_kinds`."""
    (tmp_path / "scopes.yaml").write_text(MAP)
    (tmp_path / "scopes.yaml").chmod(0o600)
    assert load(tmp_path / "scopes.yaml", maps.kinds()).scopes["orders"].revocability is Revocability.EXACT
    with pytest.raises(ScopeMapError, match=r"scopes\.yaml:8:12: .*dev"):
        load(tmp_path / "scopes.yaml", adapters.scope_kinds())


def test_real_blocks_are_checked_as_ever() -> None:
    bad = MAP.replace("dev: {kind: login, values: {password: hunter2}}", "vault: {role: root}")
    with pytest.raises(ScopeMapError, match="root is not for scopes"):
        parse(bad, "scopes.yaml", maps.kinds())


def test_tells_the_names_of_what_it_holds_and_no_value() -> None:
    made = DevScope().describe({"kind": "login", "values": {"password": "hunter2"}}, now=START, until=START)
    assert made.told == {"kind": "login", "values": ["password"]}
    assert "hunter2" not in str(made)
