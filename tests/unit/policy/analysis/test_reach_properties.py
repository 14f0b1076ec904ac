"""who_can and what_can over generated maps: what they say is allowed is what decide() allows."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model import Bind
from broker.policy.analysis.reach import Reach, what_can, who_can
from broker.policy.decision import Allowed
from tests.support.examples import examples
from tests.unit.policy.analysis.covers import covering, covers
from tests.unit.policy.analysis.worlds import NOW, PARTNER, ROLES, D, Maker, compiled, every_question, seeds


def check_entries(found: Reach) -> None:
    """Each has an example that is really allowed, and every pair that is not listed is counted with a reason."""
    given_pairs = {
        (scope, grant.rule.name, name)
        for grant in found.scope_map.grants.values()
        for scope in grant.scopes
        for name in grant.workloads
    }
    listed = {(one.scope.name, one.grant.rule.name, one.workload.name) for one in found.entries}
    unused = {(one.scope, one.grant.rule.name, one.workload.name) for one in found.unused}
    assert not listed & unused
    assert listed | unused <= given_pairs
    if found.region is None:
        assert listed | unused == {pair for pair in given_pairs if pair[0] in found.scopes}
    for entry in found.entries:
        assert isinstance(found.scope_map.decide(entry.witness), Allowed)
        assert entry.bind is Bind.KEY or entry.grant.bind is Bind.IDENTITY
        assert covers(found, entry.witness)
    assert all(one.reason for one in found.unused)


@settings(max_examples=examples(50, long=300), deadline=None)
@given(seeds)
def test_who_can_covers_exactly_what_is_allowed(random: Random) -> None:
    make = Maker(random)
    scope_map = compiled(make.world())
    answers = {scope: who_can(scope_map, scope, NOW) for scope in ROLES}
    for answer in answers.values():
        check_entries(answer)
    for asked in make.requests(150):
        decision = scope_map.decide(asked)
        entries = covering(answers[asked.scope], asked)
        assert bool(entries) == isinstance(decision, Allowed), asked
        if isinstance(decision, Allowed) and any(entry.bind is Bind.KEY for entry in entries):
            assert decision.bind is Bind.KEY, asked


@settings(max_examples=examples(4, long=15), deadline=None)
@given(seeds)
def test_who_can_covers_a_small_universe_exactly(random: Random) -> None:
    scope_map = compiled(Maker(random).world())
    answers = {scope: who_can(scope_map, scope, NOW) for scope in ROLES}
    for asked in every_question():
        assert covers(answers[asked.scope], asked) == isinstance(scope_map.decide(asked), Allowed), asked


AGENTS = [f"{D}/*/*", f"{D}/w/*", f"{D}/w/etl", f"{D}/*/odd.name", f"{D}/w/*/*", f"{D}/w/etl/r1", f"{D}/q"]
AGENTS += [f"{PARTNER}/*/*", f"{PARTNER}/w/etl"]


@settings(max_examples=examples(50, long=300), deadline=None)
@given(seeds, st.sampled_from(AGENTS))
def test_what_can_covers_exactly_what_is_allowed_to_its_agents(random: Random, agent: str) -> None:
    make = Maker(random)
    scope_map = compiled(make.world())
    answer = what_can(scope_map, agent, NOW)
    check_entries(answer)
    wanted = agent.split("/")
    for asked in make.requests(150):
        parts = asked.agent.split("/")
        inside = len(parts) == len(wanted) and all(w in ("*", p) for w, p in zip(wanted, parts, strict=True))
        assert covers(answer, asked) == (inside and isinstance(scope_map.decide(asked), Allowed)), asked
