"""What an operators file leaves undone."""

from __future__ import annotations

from broker.operators.file import OperatorsFile
from broker.operators.gaps import gaps, gaps_under
from broker.operators.model import Operator, Role
from broker.policy.language.load import parse
from tests.unit.operators.people import operator
from tests.unit.policy.kinds import KINDS

DOMAIN = "prod.acme.internal"
MAP = f"""\
version: 1
environment: prod
trust_domain: {DOMAIN}
workloads:
  load: {{id: "spiffe://{DOMAIN}/load", owners: [ann, "group:platform"]}}
launchers:
  air: {{id: "spiffe://{DOMAIN}/air", owners: [cid], workloads: [load], workflows: [etl]}}
scopes:
  lake: {{fake: {{role: r}}, tier: high, approvals: 1}}
  orders: {{fake: {{role: r}}, tier: low}}
grants:
  nightly: {{workloads: [load], workflows: [etl], scopes: [lake, orders]}}
  two: {{workloads: [load], workflows: [ml], scopes: [lake], approvals: 2}}
"""


def file(*people: Operator) -> OperatorsFile:
    return OperatorsFile(
        operators={one.name: one for one in people}, by_key={key: one.name for one in people for key in one.keys}
    )


def under(*people: Operator) -> list[str]:
    return [*gaps_under(file(*people), parse(MAP, "map.yaml", KINDS))]


def bare(name: str, **changes: object) -> Operator:
    return operator(name, **{"groups": frozenset[str](), **changes})


CROWD = [bare(name) for name in ("bob", "cid", "dan", "eve")]


def test_a_house_in_order_has_none() -> None:
    platform = operator("ann")
    assert [*gaps(file(platform, *CROWD))] == []
    assert under(platform, *CROWD) == []


def test_whoever_acts_needs_a_second_factor_and_resets_need_two() -> None:
    found = [*gaps(file(bare("ann", second_factor=None), bare("bob"), bare("cid", roles=frozenset({Role.VIEWER}))))]
    assert found[0] == "ann is approver and has no second factor: it can neither approve nor reset"
    assert found[1].startswith("only bob can reset a guard key;")
    assert len(found) == 2
    assert next(iter(gaps(file()))).startswith("nobody can reset")


def test_a_signing_key_of_nobody_is_told() -> None:
    (line,) = gaps(file(bare("ann", keys=frozenset({"ann-2026"})), bare("bob")), keys=["ann-2026", "eve-2026"])
    assert line.startswith("key eve-2026 of [scopes.keys] is no operator's")


def test_a_scope_that_too_few_can_approve_is_told_once() -> None:
    people = [operator("ann"), bare("bob"), bare("cid"), bare("dan", second_factor=None)]
    (line,) = under(*people)  # bob and cid suffice, but not for what cid's launcher opens
    assert line.startswith("scope lake for workload load, opened by air needs 2 to approve, and only bob can:")
    (line,) = under(operator("ann"), bare("cid", roles=frozenset({Role.ADMIN})))
    assert line.startswith("scope lake for workload load needs 2 to approve, and nobody can:")


def test_an_owner_whom_nobody_is_is_told_with_a_hint() -> None:
    found = under(bare("anne", groups=frozenset({"platforms"})), *CROWD)
    assert found == [
        "owner 'ann' of workload load is no operator and no group of one; did you mean 'anne'?",
        "owner 'group:platform' of workload load is no operator and no group of one; did you mean 'group:platforms'?",
    ]
