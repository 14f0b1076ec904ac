"""decide() over generated maps: total, deny wins, and equal to an interpreter that looks at every rule."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.policy.decision import AccessRequest, Allowed, Denial
from broker.policy.explain import explain
from broker.policy.load import parse
from tests.unit.policy.kinds import KINDS

D = "spiffe://d"
DIGESTS = ["sha256:" + letter * 64 for letter in "ab"]
WORKLOADS = {
    "bound": f"{D}/w/{{workflow}}",
    "exact": f"{D}/w/etl",
    "loose": f"{D}/{{kind}}/{{name}}",
    "runs": f"{D}/w/{{workflow}}/{{run}}",
    "other": f"{D}/x/y",
}
SCOPES = {"plain": "r", "by-workflow": "a/{workflow}", "by-run": "{run}"}
FLOWS = ["etl", "ml", "odd.name"]
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def some(values: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)


flows = st.just(["*"]) | some(FLOWS)
hours = st.sampled_from(["00:00", "06:00", "12:00", "12:30", "22:00"])
windows = st.tuples(hours, hours).filter(lambda pair: pair[0] != pair[1])
whens = st.fixed_dictionaries(
    {},
    optional={
        "until": st.sampled_from(["2026-01-01", "2026-06-01T12:00:30Z", "2027-01-01"]),
        "daily": windows.map(lambda pair: {"from": pair[0], "to": pair[1], "tz": "UTC"}),
    },
)
grants = st.fixed_dictionaries(
    {"workloads": some(list(WORKLOADS)), "workflows": flows, "scopes": some(list(SCOPES))},
    optional={
        "when": whens,
        "definition_digest": some(DIGESTS),
        "max_step": st.sampled_from(["1h", "2h"]),
        "concurrent": st.sampled_from(["refuse", "supersede"]),
    },
)
denies = st.fixed_dictionaries(
    {},
    optional={
        "workloads": some(list(WORKLOADS)),
        "workflows": flows,
        "scopes": some(list(SCOPES)),
        "when": whens,
        "definition_digest": some(DIGESTS),
    },
)
agents = st.sampled_from([f"{D}/w/etl", f"{D}/w/ml", f"{D}/w/odd.name", f"{D}/w/etl/r1", f"{D}/x/y", f"{D}/no", "junk"])
requests = st.builds(
    AccessRequest,
    agent=agents,
    workflow=st.sampled_from(FLOWS),
    run=st.sampled_from(["r1", "r:2"]),
    step=st.just("s"),
    scope=st.sampled_from([*SCOPES, "unknown"]),
    now=st.sampled_from([NOW, NOW + timedelta(hours=11), NOW + timedelta(minutes=29, seconds=30)]),
    proven=st.booleans(),
    definition_digest=st.sampled_from(["", *DIGESTS]),
)


@dataclass
class World:
    grants: list[dict[str, Any]]
    denies: list[dict[str, Any]]

    def text(self) -> str:
        return json.dumps(
            {
                "version": 1,
                "environment": "e",
                "trust_domain": "d",
                "workloads": {name: {"id": pattern} for name, pattern in WORKLOADS.items()},
                "scopes": {name: {"fake": {"role": role}, "tier": "low"} for name, role in SCOPES.items()},
                "grants": {f"g{number}": grant for number, grant in enumerate(self.grants)},
                "denies": {f"d{number}": deny for number, deny in enumerate(self.denies)},
            }
        )


worlds = st.builds(World, grants=st.lists(grants, max_size=5), denies=st.lists(denies, max_size=2) | st.just([]))


def fitting(agent: str) -> dict[str, dict[str, str]]:
    found = {}
    for name, pattern in WORKLOADS.items():
        match = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[A-Za-z0-9._-]+)", pattern), agent)
        if match:
            found[name] = match.groupdict()
    return found


def is_open(when: dict[str, Any], now: datetime) -> bool:
    if "until" in when and now >= datetime.fromisoformat(when["until"]).replace(tzinfo=UTC):
        return False
    if "daily" not in when:
        return True
    wall, start, end = now.strftime("%H:%M"), when["daily"]["from"], when["daily"]["to"]
    return bool(start <= wall < end if start < end else wall >= start or wall < end)


def seconds_left(when: dict[str, Any], now: datetime) -> bool:
    """A minute is left: the window is still open then, and `until` is not past."""
    return is_open(when, now) and all(is_open(when, now + timedelta(seconds=s)) for s in (20, 40, 59, 59.9))


def naive(world: World, asked: AccessRequest) -> str | None:
    """The first grant in file order that allows it, looking at everything; None = denied."""
    if asked.scope not in SCOPES:
        return None
    fits = fitting(asked.agent)
    for captures in fits.values():
        for name in ("workflow", "run"):
            if captures.get(name, getattr(asked, name)) != getattr(asked, name):
                return None
    known = asked.proven or any("workflow" in captures for captures in fits.values())
    for deny in world.denies:
        concerns = set(deny.get("workloads", fits)) & set(fits) and asked.scope in deny.get("scopes", SCOPES)
        names = deny.get("workflows", ["*"])
        concerns = concerns and (names == ["*"] or asked.workflow in names or not known)
        digests = deny.get("definition_digest")
        concerns = concerns and (digests is None or not asked.proven or asked.definition_digest in digests)
        if concerns and is_open(deny.get("when", {}), asked.now):
            return None
    for number, grant in enumerate(world.grants):
        if any(naive_grant(grant, name, captures, asked) for name, captures in fits.items()):
            return f"g{number}"
    return None


def naive_grant(grant: dict[str, Any], workload: str, captures: dict[str, str], asked: AccessRequest) -> bool:
    digests = grant.get("definition_digest")
    values = ({"workflow": asked.workflow, "run": asked.run} if asked.proven else {}) | captures
    used = re.findall(r"\{(\w+)\}", SCOPES[asked.scope])
    return (
        workload in grant["workloads"]
        and asked.scope in grant["scopes"]
        and (grant["workflows"] == ["*"] or asked.workflow in grant["workflows"])
        and (digests is None or (asked.proven and asked.definition_digest in digests))
        and seconds_left(grant.get("when", {}), asked.now)
        and all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", values.get(name, "")) for name in used)
    )


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(worlds, st.lists(requests, min_size=1, max_size=6))
def test_decide_equals_the_interpreter_that_looks_at_every_rule(world: World, questions: list[AccessRequest]) -> None:
    scope_map = parse(world.text(), "map.yaml", KINDS)
    for asked in questions:
        decision = scope_map.decide(asked)
        expected = naive(world, asked)
        assert (decision.rule.name if isinstance(decision, Allowed) else None) == expected
        if isinstance(decision, Allowed):
            assert "{" not in str(decision.params["role"])
        else:
            assert decision.message
            assert decision.smallest_fix


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(worlds, requests)
def test_nothing_is_allowed_without_a_grant_that_names_it_and_a_deny_of_all_denies_all(
    world: World, asked: AccessRequest
) -> None:
    decision = parse(world.text(), "map.yaml", KINDS).decide(asked)
    if isinstance(decision, Allowed):
        grant = world.grants[int(decision.rule.name[1:])]
        assert asked.scope in grant["scopes"]
        assert decision.workload in grant["workloads"]
    stopped = World(grants=world.grants, denies=[*world.denies, {}])
    refused = parse(stopped.text(), "map.yaml", KINDS).decide(asked)
    assert not isinstance(refused, Allowed)
    hidden = refused.reason in (Denial.UNKNOWN_SCOPE, Denial.NO_GRANT, Denial.NO_WORKLOAD)
    assert refused.known is not hidden


wild = st.builds(
    AccessRequest,
    agent=st.text(max_size=30) | st.sampled_from([f"{D}/w/etl", f"{D}/" + "a/" * 3000, D, f"{D}/"]),
    workflow=st.text(max_size=10),
    run=st.text(max_size=10),
    step=st.text(max_size=10),
    scope=st.sampled_from(list(SCOPES)) | st.text(max_size=10),
    now=st.datetimes() | st.datetimes(timezones=st.just(UTC)),
    proven=st.booleans(),
    definition_digest=st.text(max_size=10),
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(worlds, wild)
def test_any_question_is_decided_and_explained_without_an_exception(world: World, asked: AccessRequest) -> None:
    scope_map = parse(world.text(), "map.yaml", KINDS)
    story = explain(scope_map, asked)
    assert story.decision == scope_map.decide(asked)
    assert all(line.isprintable() for line in story.lines())
    json.dumps(story.to_json())


@given(worlds)
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
def test_scopes_of_an_agent_are_exactly_those_known_to_it(world: World) -> None:
    scope_map = parse(world.text(), "map.yaml", KINDS)
    for agent in (f"{D}/w/etl", f"{D}/x/y", f"{D}/no"):
        said = {"agent": agent, "workflow": "etl", "run": "r1", "step": "s", "now": NOW}
        known = {name for name in SCOPES if getattr(scope_map.decide(AccessRequest(scope=name, **said)), "known", True)}  # type: ignore[arg-type]  # a dict of mixed values
        assert set(scope_map.scopes_of(agent)) == known
