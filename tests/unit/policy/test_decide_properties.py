"""decide() over generated maps: total, deny wins, and equal to an interpreter that looks at every rule."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.model import Bind
from broker.policy.decision import AccessRequest, Allowed, Concurrent, Denial
from broker.policy.explain import explain
from broker.policy.language.document import read_document
from broker.policy.language.load import parse
from tests.support.examples import examples
from tests.unit.policy.kinds import KINDS

D, PARTNER, STRANGER = "spiffe://d", "spiffe://p", "spiffe://q"
DIGESTS = ["sha256:" + letter * 64 for letter in "ab"]
WORKLOADS = {
    "bound": f"{D}/w/{{workflow}}",
    "exact": f"{D}/w/etl",
    "loose": f"{D}/{{kind}}/{{name}}",
    "runs": f"{D}/w/{{workflow}}/{{run}}",
    "other": f"{D}/x/y",
    "theirs": f"{PARTNER}/w/{{workflow}}",
    "their-own": f"{PARTNER}/{{name}}/etl",
}
SCOPES = {"plain": "r", "by-workflow": "a/{workflow}", "by-run": "{run}"}
NETWORKS = ["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"]
FLOWS = ["etl", "ml", "odd.name"]
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def some(values: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)


flows = st.just(["*"]) | some(FLOWS)
hours = st.sampled_from(["00:00", "06:00", "12:00", "12:30", "22:00"])
windows = st.tuples(hours, hours).filter(lambda pair: pair[0] != pair[1])
days = st.sampled_from([{}, {"days": ["mon"]}, {"days": ["sun", "tue"]}])
whens = st.fixed_dictionaries(
    {},
    optional={
        "until": st.sampled_from(["2026-01-01", "2026-06-01T12:00:30Z", "2027-01-01"]),
        "daily": st.tuples(windows, days).map(lambda w: {"from": w[0][0], "to": w[0][1], "tz": "UTC"} | w[1]),
        "networks": some(NETWORKS),
    },
)
grants = st.fixed_dictionaries(
    {"workloads": some(list(WORKLOADS)), "workflows": flows, "scopes": some(list(SCOPES))},
    optional={
        "when": whens,
        "definition_digest": some(DIGESTS),
        "max_step": st.sampled_from(["1h", "2h"]),
        "concurrent": st.sampled_from(["refuse", "supersede"]),
        "bind": st.sampled_from(["identity", "key"]),
        "attempts": st.integers(1, 3),
        "approvals": st.integers(0, 2),
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
agents = st.sampled_from(
    [
        *(f"{D}/{path}" for path in ("w/etl", "w/ml", "w/odd.name", "w/etl/r1", "x/y", "no")),
        *(f"{PARTNER}/{path}" for path in ("w/etl", "w/ml", "x/y")),
        f"{STRANGER}/w/etl",
        "junk",
    ]
)
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
    address=st.sampled_from(["", "10.1.2.3", "10.2.0.1", "::ffff:10.1.0.1", "2001:db8::7", "192.0.2.1"]),
    attempt=st.integers(1, 4),
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
                "federates_with": ["p"],
                "workloads": {name: {"id": pattern, "owners": ["ann"]} for name, pattern in WORKLOADS.items()},
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
    began = now if start < end or wall >= start else now - timedelta(days=1)
    inside = start <= wall < end if start < end else wall >= start or wall < end
    return bool(inside and began.strftime("%a").lower() in when["daily"].get("days", [began.strftime("%a").lower()]))


def from_there(when: dict[str, Any], address: str, *, unknown: bool) -> bool:
    if "networks" not in when:
        return True
    if not address:
        return unknown
    found = ipaddress.ip_address(address.removeprefix("::ffff:"))
    return any(found in ipaddress.ip_network(network) for network in when["networks"])


def ends(when: dict[str, Any], now: datetime) -> datetime | None:
    """The first minute at which it is over, looked for one by one."""
    if not when.keys() & {"until", "daily"}:
        return None
    last = datetime.fromisoformat(when["until"]).replace(tzinfo=UTC) if "until" in when else None
    if "daily" not in when:
        return last
    minutes = (now.replace(second=0) + timedelta(minutes=n) for n in range(1, 2 * 24 * 60))
    closes = next(minute for minute in minutes if not is_open({"daily": when["daily"]}, minute))
    return min(closes, last) if last else closes


def seconds_left(when: dict[str, Any], now: datetime) -> bool:
    """A minute is left: the window is still open then, and `until` is not past."""
    return is_open(when, now) and all(is_open(when, now + timedelta(seconds=s)) for s in (20, 40, 59, 59.9))


def naive(world: World, asked: AccessRequest) -> dict[str, Any] | None:
    """The first grant in file order, and the bounds of all that allow, looking at everything; None = denied."""
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
        concerns = concerns and (
            digests is None or not (asked.proven and asked.definition_digest) or asked.definition_digest in digests
        )
        when = deny.get("when", {})
        if concerns and is_open(when, asked.now) and from_there(when, asked.address, unknown=True):
            return None
    matching = {
        f"g{number}": grant
        for number, grant in enumerate(world.grants)
        if any(naive_grant(grant, name, captures, asked) for name, captures in fits.items())
    }
    if not matching:
        return None
    untils = [ends(grant.get("when", {}), asked.now) for grant in matching.values()]
    hours = {"1h": 1, "2h": 2}
    return {
        "rule": next(iter(matching)),
        "until": None if None in untils else max(until for until in untils if until),
        "max_step": timedelta(hours=min(hours.get(grant.get("max_step", ""), 24) for grant in matching.values())),
        "approvals": max(grant.get("approvals", 0) for grant in matching.values()),
        "refuse": any(grant.get("concurrent", "refuse") == "refuse" for grant in matching.values()),
        "one_key": any(grant.get("bind") == "key" for grant in matching.values()),
    }


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
        and from_there(grant.get("when", {}), asked.address, unknown=False)
        and asked.attempt <= grant.get("attempts", 99)
        and all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", values.get(name, "")) for name in used)
    )


def bounds(decision: Allowed) -> dict[str, Any]:
    return {
        "rule": decision.rule.name,
        "until": decision.until,
        "max_step": decision.max_step,
        "approvals": decision.approvals,
        "refuse": decision.concurrent is Concurrent.REFUSE,
        "one_key": decision.bind is Bind.KEY,
    }


@settings(max_examples=examples(130, long=400), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds, st.lists(requests, min_size=1, max_size=6))
def test_decide_equals_the_interpreter_that_looks_at_every_rule(world: World, questions: list[AccessRequest]) -> None:
    scope_map = parse(world.text(), "map.yaml", KINDS)
    for asked in questions:
        decision = scope_map.decide(asked)
        expected = naive(world, asked)
        assert (bounds(decision) if isinstance(decision, Allowed) else None) == expected
        if isinstance(decision, Allowed):
            assert "{" not in str(decision.params["role"])
        else:
            assert decision.message
            assert decision.smallest_fix


@settings(max_examples=examples(60, long=150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
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


@settings(max_examples=examples(50, long=100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds, wild)
def test_any_question_is_decided_and_explained_without_an_exception(world: World, asked: AccessRequest) -> None:
    scope_map = parse(world.text(), "map.yaml", KINDS)
    story = explain(scope_map, asked)
    assert story.decision == scope_map.decide(asked)
    assert all(line.isprintable() for line in story.lines())
    json.dumps(story.to_json())


@given(worlds)
@settings(max_examples=examples(25, long=50), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_scopes_of_an_agent_are_exactly_those_known_to_it(world: World) -> None:
    scope_map = parse(world.text(), "map.yaml", KINDS)
    for agent in (f"{D}/w/etl", f"{D}/x/y", f"{D}/no", f"{PARTNER}/w/etl", f"{STRANGER}/w/etl"):
        said = {"agent": agent, "workflow": "etl", "run": "r1", "step": "s", "now": NOW}
        known = {name for name in SCOPES if getattr(scope_map.decide(AccessRequest(scope=name, **said)), "known", True)}  # type: ignore[arg-type]  # a dict of mixed values
        assert set(scope_map.scopes_of(agent)) == known


def pasted(data: Any, piece: Any) -> Any:
    """A JSON merge patch (RFC 7396)."""
    if not isinstance(piece, dict):
        return piece
    result = dict(data) if isinstance(data, dict) else {}
    for key, value in piece.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = pasted(result.get(key), value)
    return result


# Questions that one grant nearly answers: else most of them fail for what no paste mends.
near = st.builds(
    World,
    grants=st.lists(grants.map(lambda grant: grant | {"workloads": ["bound"]}), min_size=1, max_size=2),
    denies=st.just([]),
)
AGENT_OF = {"etl": f"{D}/w/etl", "ml": f"{D}/w/ml", "odd.name": f"{D}/w/odd.name"}
nearly = requests.map(lambda asked: replace(asked, agent=AGENT_OF[asked.workflow]))


@settings(max_examples=examples(200, long=600), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(near | worlds, nearly | requests)
def test_the_smallest_change_pasted_into_the_map_allows_it(world: World, asked: AccessRequest) -> None:
    decision = parse(world.text(), "map.yaml", KINDS).decide(asked)
    if isinstance(decision, Allowed) or "#" in decision.smallest_fix or asked.agent == "junk":
        # A sentence: no change of the map alone helps. And no certificate names junk.
        return
    piece = read_document(decision.smallest_fix, "fix").data
    changed = parse(json.dumps(pasted(json.loads(world.text()), piece)), "map.yaml", KINDS)
    again = changed.decide(asked)
    # A scope that is granted newly, or a workload, may still meet a deny rule or a condition of that grant.
    if decision.known:
        assert isinstance(again, Allowed), (decision.smallest_fix, again)
    else:
        assert isinstance(again, Allowed) or again.reason is not decision.reason
