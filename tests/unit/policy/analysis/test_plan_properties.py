"""plan() over generated maps: it says of every question what decide() does, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from random import Random

from hypothesis import given, settings

from broker.model import Bind
from broker.policy.analysis.changes import Change, Kind
from broker.policy.analysis.plan import Plan, plan
from broker.policy.decision import AccessRequest, Allowed, Concurrent
from broker.policy.language.parts import TIER_ORDER
from broker.policy.scope_map import ScopeMap
from tests.support.examples import examples
from tests.unit.policy.analysis.worlds import NOW, Maker, compiled, every_question, seeds


def facts(old: ScopeMap, new: ScopeMap, asked: AccessRequest) -> set[tuple[Kind, str, str, str]]:
    """What becomes of one question, by decide() alone: kind, attribute, rule and workload of the deciding map."""
    before, after = old.decide(asked), new.decide(asked)
    if isinstance(before, Allowed) and isinstance(after, Allowed):
        return {
            (Kind.LOOSENED if wider else Kind.TIGHTENED, attribute, after.rule.name, after.workload)
            for attribute, wider in moved(old, new, before, after)
        }
    if isinstance(after, Allowed):
        return {(Kind.GAINED, "", after.rule.name, after.workload)}
    if isinstance(before, Allowed):
        return {(Kind.LOST, "", before.rule.name, before.workload)}
    return set()


def moved(old: ScopeMap, new: ScopeMap, before: Allowed, after: Allowed) -> Iterable[tuple[str, bool]]:
    for attribute in ("ttl", "max_ttl", "max_step"):
        if getattr(before, attribute) != getattr(after, attribute):
            yield attribute, getattr(after, attribute) > getattr(before, attribute)
    if before.until != after.until:
        yield "until", after.until is None or (before.until is not None and after.until > before.until)
    if before.approvals != after.approvals:
        yield "approvals", after.approvals < before.approvals
    if before.concurrent != after.concurrent:
        yield "concurrent", after.concurrent is Concurrent.SUPERSEDE
    if before.bind != after.bind:
        yield "bind", after.bind is Bind.IDENTITY
    if before.tier != after.tier:
        yield "tier", TIER_ORDER[after.tier] < TIER_ORDER[before.tier]
    if before.params != after.params:
        yield "what is minted", True
    owners = [{*one.workloads[told.workload].owners} for one, told in ((old, before), (new, after))]
    if before.approvals and after.approvals and owners[0] != owners[1]:
        yield "owners", not owners[0] <= owners[1]


def told(changes: Plan, asked: AccessRequest) -> set[tuple[Kind, str, str, str]]:
    return {
        (one.kind, one.attribute, one.rule.name, one.workload)
        for one in changes.changes
        if one.scope == asked.scope and named(one, asked.workflow)
    }


def named(change: Change, workflow: str) -> bool:
    return workflow not in change.but if change.workflows is None else workflow in change.workflows


def check(old: ScopeMap, new: ScopeMap, found: Plan, asked: AccessRequest) -> None:
    lines = told(found, asked)
    for kind, attribute, rule, workload in facts(old, new, asked):
        known = {(one[0], one[1], one[3]) for one in lines}
        assert (kind, attribute, workload) in known, (kind, attribute, rule, workload, asked)
        if not attribute:
            assert (kind, attribute, rule, workload) in lines


def check_witnesses(old: ScopeMap, new: ScopeMap, found: Plan) -> None:
    for change in found.changes:
        if change.kind is Kind.NOTE:
            continue
        if change.scope and not change.workload:  # a tier that falls where nobody has the scope
            assert (change.attribute, change.kind) == ("tier", Kind.LOOSENED)
            continue
        assert change.witness is not None
        assert change.witness.now >= NOW
        known = {(kind, attribute, workload) for kind, attribute, _, workload in facts(old, new, change.witness)}
        assert (change.kind, change.attribute, change.workload) in known
        assert named(change, change.witness.workflow)
        assert change.refused or change.attribute


@settings(max_examples=examples(50, long=400), deadline=None)
@given(seeds)
def test_no_question_is_decided_otherwise_without_a_line_that_says_so(random: Random) -> None:
    make = Maker(random)
    old, new = map(compiled, make.pair())
    found = plan(old, new, NOW)
    check_witnesses(old, new, found)
    for asked in make.requests(150):
        check(old, new, found, asked)


@settings(max_examples=examples(4, long=15), deadline=None)
@given(seeds)
def test_of_a_small_universe_every_question_is_told(random: Random) -> None:
    old, new = map(compiled, Maker(random).pair())
    found = plan(old, new, NOW)
    for asked in every_question():
        check(old, new, found, asked)


@settings(max_examples=examples(50, long=100), deadline=None)
@given(seeds)
def test_the_same_map_in_another_order_is_an_empty_plan(random: Random) -> None:
    world = Maker(random).world()
    other = json.loads(json.dumps(world))
    for section in ("workloads", "scopes", "grants", "denies"):
        names = [*other[section]]
        random.shuffle(names)
        other[section] = {name: other[section][name] for name in names}
    old, new = compiled(world), compiled(other)
    # Two workloads of one certificate may differ in what they fill in, and in who owns them: there, the first counts.
    ordered = {"what is minted", "owners"}
    assert {change.attribute for change in plan(old, new, NOW).changes} <= ordered
    assert plan(old, compiled(world), NOW).changes == ()
