"""Generated maps with every condition of the language, and questions over all of their constants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

from hypothesis import strategies as st

from broker.policy.decision import AccessRequest
from broker.policy.load import parse
from broker.policy.scope_map import ScopeMap
from tests.unit.policy.kinds import KINDS

D = "spiffe://d"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DIGESTS = ["sha256:" + letter * 64 for letter in "ab"]
FLOWS = ["etl", "ml", "odd.name"]
NETWORKS = ["10.0.0.0/8", "10.1.0.0/16", "192.168.0.0/16", "2001:db8::/32", "::/0"]
ADDRESSES = ["", "10.1.2.3", "10.9.9.9", "192.168.0.1", "8.8.8.8", "2001:db8::1", "2002::1", "::ffff:10.1.0.1", "x"]
PATTERNS = {  # name → what its id may be; which of them, differs from map to map
    "bound": ["w/{workflow}", "w/{name}", "{run}/{workflow}"],
    "exact": ["w/etl", "w/ml"],
    "loose": ["{kind}/{name}", "{name}/{kind}", "{workflow}/{run}"],
    "runs": ["w/{workflow}/{run}", "{kind}/{workflow}/{run}"],
    "swapped": ["w/{run}/{workflow}", "w/{step}/{run}", "w/{run}/{name}"],
    "literal": ["w/etl/r1", "w/r1/etl"],
}
ROLES = {
    "plain": ["r", "s"],
    "flow": ["a/{workflow}", "a/etl"],
    "run": ["{run}", "b"],
    "name": ["{name}/x", "{kind}/x"],
}
OPEN_CAPTURES = {"name": {"name", "kind"}}
SEGMENTS = ["w", "etl", "ml", "odd.name", "r1", "q"]


def some(values: list[str], most: int = 3) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True)


flows = st.just(["*"]) | some(FLOWS)
hours = st.sampled_from(["00:00", "02:30", "06:00", "12:00", "22:00"])
dailies = st.fixed_dictionaries(
    {"from": hours, "to": hours, "tz": st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"])},
    optional={"days": some(["mon", "fri", "sun"], 2)},
).filter(lambda daily: daily["from"] != daily["to"])
untils = st.sampled_from(["2026-01-01", "2026-03-02T02:00:30Z", "2026-06-01", "2027-01-01"])
whens = st.fixed_dictionaries({}, optional={"until": untils, "daily": dailies, "networks": some(NETWORKS, 2)})
grant_extras = {
    "when": whens,
    "definition_digest": some(DIGESTS),
    "max_step": st.sampled_from(["1h", "2h"]),
    "concurrent": st.sampled_from(["refuse", "supersede"]),
    "attempts": st.sampled_from([1, 3]),
    "approvals": st.sampled_from([1, 2]),
}
grants = st.fixed_dictionaries(
    {"workloads": some([*PATTERNS]), "workflows": flows, "scopes": some([*ROLES])}, optional=grant_extras
)
denies = st.fixed_dictionaries(
    {},
    optional={
        "workloads": some([*PATTERNS]),
        "workflows": flows,
        "scopes": some([*ROLES]),
        "when": whens,
        "definition_digest": some(DIGESTS),
    },
)
workloads = st.fixed_dictionaries(
    {
        name: st.fixed_dictionaries(
            {"id": st.sampled_from([f"{D}/{one}" for one in ids])}, optional={"owners": some(["ann", "bob"], 2)}
        )
        for name, ids in PATTERNS.items()
    }
)
scopes = st.fixed_dictionaries(
    {
        name: st.fixed_dictionaries(
            {
                "fake": st.sampled_from(roles).map(lambda role: {"role": role}),
                "tier": st.sampled_from(["low", "high"]),
                "ttl": st.sampled_from(["5m", "10m"]),
            },
            optional={"max_ttl": st.sampled_from(["1h", "2h"])},
        )
        for name, roles in ROLES.items()
    }
)


def repaired(world: dict[str, Any]) -> dict[str, Any]:
    """What does not load is taken out: owners where approval is asked for, workloads that do not capture a template."""
    world = json.loads(json.dumps(world))
    for grant in world["grants"].values():
        for scope in list(grant["scopes"]):
            used = {one for one in ("name", "kind") if f"{{{one}}}" in world["scopes"][scope]["fake"]["role"]}
            if any(
                not all(f"{{{one}}}" in world["workloads"][name]["id"] for one in used) for name in grant["workloads"]
            ):
                grant["scopes"].remove(scope)
        if any("owners" not in world["workloads"][name] for name in grant["workloads"]):
            grant.pop("approvals", None)
    world["grants"] = {name: grant for name, grant in world["grants"].items() if grant["scopes"]}
    return world


def numbered(kind: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {f"{kind}{number}": rule for number, rule in enumerate(rules)}


raw_worlds = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "environment": st.just("e"),
        "trust_domain": st.just("d"),
        "workloads": workloads,
        "scopes": scopes,
        "grants": st.lists(grants, max_size=4).map(lambda rules: numbered("g", rules)),
        "denies": (st.lists(denies, max_size=2) | st.just([])).map(lambda rules: numbered("d", rules)),
    }
)
worlds = raw_worlds.map(repaired)


@st.composite
def edited(draw: st.DrawFn, world: dict[str, Any]) -> dict[str, Any]:
    """The same map with a few changes, as people make them."""
    other = json.loads(json.dumps(world))
    for _ in range(draw(st.integers(0, 3))):
        section = draw(st.sampled_from(["workloads", "scopes", "grants", "denies"]))
        fresh = draw({"workloads": workloads, "scopes": scopes}.get(section, st.just({})))
        if fresh:
            name = draw(st.sampled_from([*fresh]))
            other[section][name] = fresh[name]
        elif other[section] and draw(st.booleans()):
            other[section].pop(draw(st.sampled_from([*other[section]])))
        elif section == "grants" and other[section] and draw(st.booleans()):
            name = draw(st.sampled_from([*other[section]]))
            key = draw(st.sampled_from([*grant_extras]))
            other[section][name].pop(key, None)
            if draw(st.booleans()):
                other[section][name][key] = draw(grant_extras[key])
        else:
            other[section][f"{section[0]}{draw(st.integers(0, 5))}"] = draw(grants if section == "grants" else denies)
    return repaired(other)


pairs = worlds.flatmap(lambda world: st.tuples(st.just(world), edited(world))) | st.tuples(worlds, worlds)


def compiled(world: dict[str, Any]) -> ScopeMap:
    return parse(json.dumps(world), "map.yaml", KINDS)


moments = st.builds(
    lambda days, minutes, seconds: NOW + timedelta(days=days, minutes=minutes, seconds=seconds),
    st.sampled_from([0, 1, 2, 27, 28, 29, 91, 92, 237, 238, 305, 306, 400]),
    st.sampled_from([*range(0, 1440, 30), *range(29, 1440, 30)]),
    st.sampled_from([0, 29, 31]),
)


@st.composite
def requests(draw: st.DrawFn) -> AccessRequest:
    parts = draw(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=2))
    claim = st.sampled_from([*parts, *FLOWS, "r1", "q"])
    return AccessRequest(
        agent="/".join([D, draw(st.sampled_from(["w", "w", "q", "etl"])), *parts]),
        workflow=draw(st.just(parts[-1]) | st.just(parts[0]) | claim),
        run=draw(st.just(parts[-1]) | claim),
        step=draw(st.sampled_from([parts[0], "s"])),
        scope=draw(st.sampled_from([*ROLES])),
        now=draw(moments),
        proven=draw(st.booleans()),
        definition_digest=draw(st.sampled_from(["", *DIGESTS, "other"])),
        address=draw(st.sampled_from(ADDRESSES)),
        attempt=draw(st.sampled_from([1, 2, 3, 4])),
    )


def every_question() -> Iterator[AccessRequest]:
    """All of a small universe: one segment after the first, what the maps say of it, and something else."""
    agents = [
        f"{D}/{one}/{other}" for one, other in (("w", "etl"), ("w", "q"), ("w", "odd.name"), ("q", "q"), ("q", "p"))
    ]
    times = [NOW, NOW + timedelta(hours=11), NOW + timedelta(hours=14), NOW + timedelta(days=91, hours=16)]
    for agent, workflow, run, scope, now, proven, digest, address, attempt in product(
        agents,
        ["etl", "q", "odd.name", "ml"],
        ["w", "q"],
        [*ROLES],
        times,
        [False, True],
        ["", DIGESTS[0]],
        ["", "10.1.2.3", "8.8.8.8"],
        [1, 4],
    ):
        yield AccessRequest(
            agent=agent,
            workflow=workflow,
            run=run,
            step="s",
            scope=scope,
            now=now,
            proven=proven,
            definition_digest=digest,
            address=address,
            attempt=attempt,
        )
