"""`extends` only narrows: what is refused, where it is said, and what is not refused."""

from __future__ import annotations

import pytest

from broker.policy.language.files import Memory
from broker.policy.language.load import Loaded, load_files
from broker.policy.problems import ScopeMapError
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, DOMAIN

ROOT = (
    BASE.replace('step/load"}', 'step/load", owners: [ann, bob]}')
    + f"""
launchers:
  air: {{id: "spiffe://{DOMAIN}/air", workloads: [load], workflows: [etl]}}
grants:
  nightly: {{workloads: [load], workflows: [etl, ml], scopes: [orders], attempts: 3, approvals: 1, bind: key}}
denies:
  stop: {{workflows: [ml]}}
never:
  plain-stays-low: {{agents: "spiffe://{DOMAIN}/plain", tier: high}}
tiers:
  high: {{approvals: 1, longest_ttl: 1h}}
teams:
  pay: {{path: pay.yaml, scopes_prefix: pay-, max_tier: elevated, workloads: [load], roles: [pay-*]}}
"""
)
TEAM = """version: 1
scopes: {pay-x: {fake: {role: pay-r}, tier: low}}
grants: {own: {workloads: [load], workflows: [etl], scopes: [pay-x]}}
"""
EXTENDS = "extends: base.yaml\n"


def loaded(patch: str, *, base: str = ROOT, team: str = TEAM) -> Loaded:
    texts = {"map.yaml": EXTENDS + patch, "base.yaml": base, "pay.yaml": team, "none.yaml": "version: 1\n"}
    return load_files(Memory(contents={name: text.encode() for name, text in texts.items()}), "map.yaml", KINDS)


def refusal(patch: str, *, base: str = ROOT) -> str:
    with pytest.raises(ScopeMapError) as error:
        loaded(patch, base=base)
    return str(error.value)


@pytest.mark.parametrize(
    "patch",
    [
        "",
        "grants: {nightly: {workflows: [etl]}}",
        "grants: {nightly: null}",
        "grants: {nightly: {when: {until: 2020-01-01}}}",
        "grants: {same: {workloads: [load], workflows: [etl], scopes: [orders], attempts: 2, approvals: 2}}",
        "denies: {more: {workloads: [plain]}}",
        "denies: {stop: {workflows: [ml, etl]}}",
        "scopes: {orders: {ttl: 5m, tier: elevated}}",
        "scopes: {orders: {shared_hourly: 9}}",
        "launchers: {air: null}",
        "workloads: {load: {owners: [ann, bob, eve]}}",
        "tiers: {high: {approvals: 2, longest_ttl: 30m, budget: 2, on_lock: run}, elevated: {lock: 2h, hourly: 5}}",
        "teams: {pay: {max_tier: low, roles: [pay-r]}}",
        "teams: null",
        "constants: {stage: x}",
        f"never: {{more: {{agents: 'spiffe://{DOMAIN}/team/*/run/*', tier: high}}}}",
    ],
)
def test_what_narrows_loads(patch: str) -> None:
    assert loaded(patch).map.workloads


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (
            "grants: {nightly: {workflows: [etl, other]}}",
            "map.yaml:2:10: widens base.yaml: it gives scope 'orders' to workload 'load', workflow other",
        ),
        ("grants: {nightly: {scopes: [orders, scratch]}}", "it gives scope 'scratch' to workload 'load'"),
        ("grants: {nightly: {attempts: null}}", "for attempts from 4"),
        ("grants: {nightly: {approvals: 0}}", "with approvals 0 where base.yaml has 1"),
        ("grants: {nightly: {concurrent: supersede}}", "with concurrent supersede where base.yaml has refuse"),
        ("grants: {nightly: {bind: identity}}", "with bind identity where base.yaml has key"),
        (
            "grants: {new: {workloads: [plain], workflows: ['*'], scopes: [orders]}}",
            "to workload 'plain', any workflow",
        ),
        (
            "grants: {old: {workloads: [plain], workflows: ['*'], scopes: [orders], when: {until: 2020-01-01}}}",
            "'plain'",
        ),
        ("denies: {stop: null}", "map.yaml:1:1: widens base.yaml: it gives"),
        ("denies: {stop: {when: {until: 2020-01-01}}}", "map.yaml:2:10: widens base.yaml: it gives"),
        (
            f"workloads: {{load: {{id: 'spiffe://{DOMAIN}/x'}}}}",
            "map.yaml:2:13: widens base.yaml: it gives scope 'orders'",
        ),
        ("denies: {stop: null}", "which base.yaml refuses (DENY_RULE: deny rule 'stop' refuses it)"),
        ("denies: {stop: {when: {until: 2020-01-01}}}", "DENY_RULE"),
        ("scopes: {orders: {ttl: 20m}}", "with ttl 20m where base.yaml has 15m"),
        ("scopes: {orders: {fake: {role: orders-rw}}}", "with what is minted"),
        ("launchers: {air: {workflows: ['*']}}", "it may open steps for more than base.yaml says"),
        (f"launchers: {{b: {{id: 'spiffe://{DOMAIN}/b', workloads: [load], workflows: [etl]}}}}", "may open steps"),
        ("never: {plain-stays-low: null}", "it takes away or changes never 'plain-stays-low'"),
        ("never: {plain-stays-low: {scopes: [lake]}}", "it takes away or changes never"),
        ("workloads: {load: {owners: [ann]}}", "it takes owner 'bob' from the workload"),
        ("tiers: {high: {approvals: 0}}", "tier high demands less"),
        ("tiers: {high: {longest_ttl: null}}", "tier high demands less"),
        ("tiers: {high: {budget: 4}}", "tier high has budget 4 where base.yaml has 3"),
        ("tiers: {elevated: {lock: 1m}}", "tier elevated has lock 1m where base.yaml has 1h"),
        ("tiers: null", "tier high demands less"),
        ("teams: {pay: {max_tier: high}}", "team pay has wider bounds"),
        ("teams: {pay: {workloads: [load, plain]}}", "team pay has wider bounds"),
        ("teams: {pay: {roles: ['p*']}}", "team pay has wider bounds"),
        ("teams: {b: {path: none.yaml, scopes_prefix: b-, max_tier: low, workloads: [load]}}", "team b is new"),
    ],
)
def test_what_widens_is_refused_at_its_place(patch: str, message: str) -> None:
    text = refusal(patch)
    assert message in text
    assert "; a map that extends another may only narrow it" in text


RESIDENCY = ROOT.replace("tier: low}\n  lake", "tier: low, residency: [eu]}\n  lake").replace(
    "launchers:", "residency: {eu: [eu-west-1], us: [us-east-1]}\nlaunchers:"
)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("residency: {eu: [eu-west-1, us-east-1]}", "residency 'eu' has more regions"),
        ("scopes: {orders: {residency: [eu, us]}}", "the data of 'orders' may live in more places"),
        ("scopes: {orders: {residency: null}}", "the data of 'orders' may live in more places"),
        ("residency: null", "it takes residency away"),
    ],
)
def test_data_lives_in_no_more_places(patch: str, message: str) -> None:
    base = RESIDENCY.replace("fake: {role: orders-ro}", "fake: {role: orders-ro, data: {regions: [eu-west-1]}}")
    assert loaded("", base=base).map.residency
    assert message in refusal(patch, base=base)


def test_each_of_several_layers_only_narrows_the_next() -> None:
    texts = {
        "map.yaml": "extends: middle.yaml\nscopes: {orders: {ttl: 8m}}\n",
        "middle.yaml": "extends: base.yaml\nscopes: {orders: {ttl: 5m}}\n",
        "base.yaml": ROOT,
        "pay.yaml": TEAM,
    }
    with pytest.raises(ScopeMapError, match=r"map.yaml:2:10: widens middle.yaml: .* ttl 8m where middle.yaml has 5m"):
        load_files(Memory(contents={name: text.encode() for name, text in texts.items()}), "map.yaml", KINDS)
    texts["map.yaml"] = texts["map.yaml"].replace("8m", "4m")
    texts["middle.yaml"] = texts["middle.yaml"].replace("5m", "20m")
    with pytest.raises(ScopeMapError, match=r"middle.yaml:2:10: widens base.yaml"):
        load_files(Memory(contents={name: text.encode() for name, text in texts.items()}), "map.yaml", KINDS)


def test_a_base_that_leaves_its_environment_and_constants_open_is_compared_as_it_stands_below_the_root() -> None:
    base = ROOT.replace("role: orders-ro", "role: '{stage}/orders'") + "constants: {stage: null}\n"
    patch = "environment: blue\nconstants: {stage: blue}\ngrants: {nightly: {workflows: [etl]}}\n"
    assert loaded(patch, base=base).map.environment == "blue"
    assert "workflow other" in refusal(patch.replace("[etl]", "[etl, other]"), base=base)


def test_what_a_team_s_file_gives_is_given_by_the_base_as_well() -> None:
    found = loaded("scopes: {orders: {ttl: 5m}}").map
    assert "pay-x" in found.scopes
    moved = "teams: null\nscopes: {pay-y: {fake: {role: pay-r}, tier: low}}\n"
    moved += "grants: {own: {workloads: [load], workflows: [etl], scopes: [pay-y]}}"
    assert "it gives scope 'pay-y'" in refusal(moved)
