"""`extends` and teams over generated files: whatever loads stays within its base, or its bounds."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from hypothesis import event, given, settings

from broker.model import Bind
from broker.policy.analysis.changes import Kind
from broker.policy.analysis.plan import plan
from broker.policy.decision import AccessRequest, Allowed, Concurrent
from broker.policy.language.files import Memory
from broker.policy.language.load import load_files
from broker.policy.language.parts import TIER_ORDER
from broker.policy.problems import ScopeMapError
from broker.policy.scope_map import ScopeMap
from tests.support.examples import examples
from tests.unit.policy.analysis.worlds import CONDITIONS, NOW, Maker, World, compiled, repaired, seeds
from tests.unit.policy.kinds import KINDS


def patch(make: Maker, world: World) -> World:
    """A file that extends the world: mostly what narrows, now and then what widens, and what only looks like it."""
    found: World = {"extends": "base.yaml", "grants": {}, "denies": {}, "scopes": {}, "workloads": {}}
    for _ in range(make.random.randint(1, 3)):
        section, name, piece = make.random.choice([of_grant, of_deny, of_others])(make, world)
        found[section][name] = piece
    return found


def of_grant(make: Maker, world: World) -> tuple[str, str, Any]:
    if not world["grants"] or make.chance(6):
        return "grants", f"g{make.random.randint(0, 6)}", make.grant()
    name, key = make.random.choice([*world["grants"]]), make.random.choice(CONDITIONS)
    drawn = [None, {"workflows": make.flows()}, {key: make.condition(key)}, {key: make.condition(key)}]
    if key in world["grants"][name]:
        drawn.append({key: None})
    return "grants", name, make.random.choice(drawn)


def of_deny(make: Maker, world: World) -> tuple[str, str, Any]:
    if world["denies"] and make.chance(2):
        return "denies", make.random.choice([*world["denies"]]), None if make.chance(2) else {"when": make.when()}
    return "denies", f"d{make.random.randint(0, 4)}", make.deny()


def of_others(make: Maker, _world: World) -> tuple[str, str, Any]:
    if make.chance(2):
        return "scopes", "plain", {"ttl": make.random.choice(["5m", "10m"])}
    return "workloads", "bound", {"owners": make.some(["ann", "bob", "eve"])}


def within(base: ScopeMap, child: ScopeMap, asked: AccessRequest) -> bool:
    after = child.decide(asked)
    if not isinstance(after, Allowed):
        return True
    before = base.decide(asked)
    return (
        isinstance(before, Allowed)
        and after.params == before.params
        and after.ttl <= before.ttl
        and after.max_ttl <= before.max_ttl
        and after.max_step <= before.max_step
        and (before.until is None or (after.until is not None and after.until <= before.until))
        and after.approvals >= before.approvals
        and (before.concurrent is Concurrent.SUPERSEDE or after.concurrent is Concurrent.REFUSE)
        and (before.bind is Bind.IDENTITY or after.bind is Bind.KEY)
        and TIER_ORDER[after.tier] >= TIER_ORDER[before.tier]
    )


def joined(base: Any, over: Any) -> Any:
    """RFC 7396, for what the extending file would be alone."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    kept = {key: value for key, value in base.items() if over.get(key, "") is not None}
    return kept | {key: joined(base.get(key), value) for key, value in over.items() if value is not None}


@settings(max_examples=examples(70, long=600), deadline=None)
@given(seeds)
def test_a_map_that_extends_another_allows_nothing_that_its_base_does_not(random: Random) -> None:
    make = Maker(random)
    world = make.world()
    over = patch(make, world)
    contents = {"base.yaml": json.dumps(world).encode(), "map.yaml": json.dumps(over).encode()}
    base = compiled(world)
    alone = joined(world, over)
    del alone["extends"]
    try:
        child = load_files(Memory(contents=contents), "map.yaml", KINDS).map
    except ScopeMapError as error:
        narrowed = [one for one in error.problems if "may only narrow" in one.message]
        event("refused" if narrowed else "broken")
        if narrowed and not any("owner" in one.message for one in narrowed):
            # Never refused for nothing: what is told really is more, at some time.
            assert any(one.kind.widens for one in plan(base, compiled(alone), NOW.replace(year=2025)).changes)
        return
    event("loads, and is narrower" if plan(base, child, NOW).changes else "loads")
    for asked in make.requests(150):
        assert within(base, child, asked), asked
    assert not plan(base, child, NOW).widens


TEAM_SCOPES = ["pay-a", "pay-b", "plain", "other"]
BOUNDS: World = {
    "path": "pay.yaml",
    "scopes_prefix": "pay-",
    "max_tier": "elevated",
    "workloads": ["bound", "exact"],
    "roles": ["pay-*", "lent"],
}


def team_file(make: Maker) -> World:
    """Mostly within its bounds."""
    choice = make.random.choice
    scopes = {
        (choice(TEAM_SCOPES) if make.chance(6) else choice(TEAM_SCOPES[:2])): {
            "fake": {"role": "root-role" if make.chance(10) else choice(["pay-r", "lent"])},
            "tier": "high" if make.chance(10) else choice(["low", "elevated"]),
        }
        for _ in range(2)
    }
    usable = [*scopes, "pay-root", *(["pay-high"] if make.chance(6) else [])]
    grants = {
        f"g{number}": {
            "workloads": make.some(["bound", "exact", *(["loose"] if make.chance(8) else [])], 2),
            "workflows": make.flows(),
            "scopes": make.some(usable, 2),
        }
        for number in range(2)
    }
    denies = {"d0": {"scopes": make.some(usable, 1)} if make.chance(2) else {}} if make.chance(4) else {}
    return {"version": 1, "scopes": scopes, "grants": grants, "denies": denies}


@settings(max_examples=examples(50, long=300), deadline=None)
@given(seeds)
def test_a_team_s_file_is_refused_or_stays_within_its_bounds(random: Random) -> None:
    make = Maker(random)
    world = make.world()
    own = {"pay-root": "low", "pay-high": "high"}
    declared = {name: {"fake": {"role": "pay-root"}, "tier": tier} for name, tier in own.items()}
    root = repaired({**world, "scopes": {**world["scopes"], **declared}})
    contents = {
        "map.yaml": json.dumps({**root, "teams": {"pay": BOUNDS}}).encode(),
        "pay.yaml": json.dumps(team_file(make)).encode(),
    }
    found = load_files(Memory(contents=contents), "map.yaml", KINDS, kept={})
    changes = [one for one in plan(compiled(root), found.map, NOW).changes if one.kind is not Kind.NOTE]
    event("refused" if found.refused else "gives something" if changes else "gives nothing")
    if found.refused:
        assert not changes
    for change in changes:
        assert change.scope.startswith("pay-")
        if change.kind is Kind.GAINED:
            scope = found.map.scopes[change.scope]
            assert TIER_ORDER[scope.tier] <= TIER_ORDER[found.map.teams["pay"].max_tier]
            assert change.workload in BOUNDS["workloads"]
            assert scope.block["role"] in ("pay-r", "lent", "pay-root")
