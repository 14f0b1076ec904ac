"""Generated maps with every condition of the language, and questions over all of their constants.

Drawn from a seed, and not piece by piece from hypothesis: maps so large and so dense take it a hundred times as long.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from random import Random
from typing import Any

from hypothesis import strategies as st

from broker.policy.decision import AccessRequest
from broker.policy.language.load import parse
from broker.policy.scope_map import ScopeMap
from tests.unit.policy.kinds import KINDS

World = dict[str, Any]

D, PARTNER, STRANGER = "spiffe://d", "spiffe://p", "spiffe://q"
DOMAINS = [D, D, D, PARTNER]
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DIGESTS = ["sha256:" + letter * 64 for letter in "ab"]
FLOWS = ["etl", "ml", "odd.name"]
NETWORKS = ["10.0.0.0/8", "10.1.0.0/16", "192.168.0.0/16", "2001:db8::/32", "::/0"]
EVERYWHERE = ["0.0.0.0/0", "::/0"]  # but not an address that nobody knows
ADDRESSES = ["", "10.1.2.3", "10.9.9.9", "192.168.0.1", "8.8.8.8", "2001:db8::1", "2002::1", "::ffff:10.1.0.1", "x"]
PATTERNS = {  # name → what its id may be; which of them, differs from map to map
    "bound": ["w/{workflow}", "w/{workflow}", "w/{name}", "{run}/{workflow}"],
    "exact": ["w/etl", "w/ml"],
    "loose": ["{kind}/{name}", "{name}/{kind}", "{workflow}/{run}"],
    "runs": ["w/{workflow}/{run}", "{kind}/{workflow}/{run}"],
    "swapped": ["w/{run}/{workflow}", "w/{step}/{run}", "w/{run}/{name}"],
    "literal": ["w/etl/r1", "w/r1/etl"],
}
ROLES = {
    "plain": ["r", "r", "s"],
    "flow": ["a/{workflow}", "a/etl"],
    "run": ["{run}", "b"],
    "name": ["{name}/x", "{kind}/x"],
}
SEGMENTS = ["w", "etl", "ml", "odd.name", "r1", "q"]
HOURS = ["00:00", "02:30", "06:00", "12:00", "22:00"]
UNTILS = ["2026-01-01", "2026-03-02T02:00:30Z", "2026-06-01", "2027-01-01"]
CONDITIONS = ["when", "definition_digest", "max_step", "concurrent", "bind", "attempts", "approvals"]

seeds = st.integers(0, 2**48).map(Random)


class Maker:
    """Makes pieces of a map."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def some(self, values: list[str], most: int = 3) -> list[str]:
        return self.random.sample(values, self.random.randint(1, min(most, len(values))))

    def chance(self, one_in: int) -> bool:
        return self.random.randrange(one_in) == 0

    def flows(self) -> list[str]:
        return ["*"] if self.chance(2) else self.some(FLOWS, 2)

    def daily(self) -> World:
        start, end = self.random.sample(HOURS, 2)
        found: World = {
            "from": start,
            "to": end,
            "tz": self.random.choice(["UTC", "Europe/Berlin", "America/New_York"]),
        }
        return found | ({"days": self.some(["mon", "fri", "sun"], 2)} if self.chance(3) else {})

    def when(self) -> World:
        found: World = {}
        if self.chance(3):
            found["until"] = self.random.choice(UNTILS)
        if self.chance(3):
            found["daily"] = self.daily()
        if self.chance(3):
            found["networks"] = EVERYWHERE if self.chance(4) else self.some(NETWORKS, 2)
        return found

    def condition(self, name: str) -> Any:
        return {
            "when": self.when(),
            "definition_digest": self.some(DIGESTS, 1),
            "max_step": self.random.choice(["1h", "2h"]),
            "concurrent": self.random.choice(["refuse", "supersede"]),
            "bind": self.random.choice(["identity", "key"]),
            "attempts": self.random.choice([1, 3]),
            "approvals": self.random.choice([1, 2]),
        }[name]

    def grant(self) -> World:
        found = {"workloads": self.some([*PATTERNS]), "workflows": self.flows(), "scopes": self.some([*ROLES])}
        return found | {name: self.condition(name) for name in CONDITIONS if self.chance(4)}

    def deny(self) -> World:
        found: World = {
            "workloads": self.some([*PATTERNS], 2),
            "workflows": self.flows(),
            "scopes": self.some([*ROLES], 2),
            "when": self.when(),
            "definition_digest": self.some(DIGESTS, 1),
        }
        return {name: value for name, value in found.items() if self.chance(2)}

    def workload(self, name: str) -> World:
        found: World = {"id": f"{self.random.choice(DOMAINS)}/{self.random.choice(PATTERNS[name])}"}
        return found | ({"owners": self.some(["ann", "bob"], 2)} if self.chance(2) else {})

    def scope(self, name: str) -> World:
        found: World = {
            "fake": {"role": self.random.choice(ROLES[name])},
            "tier": self.random.choice(["low", "low", "high"]),
            "ttl": self.random.choice(["5m", "5m", "10m"]),
        }
        return found | ({"max_ttl": self.random.choice(["1h", "2h"])} if self.chance(3) else {})

    def world(self) -> World:
        return repaired(
            {
                "version": 1,
                "environment": "e",
                "trust_domain": "d",
                "federates_with": ["p"],
                "workloads": {name: self.workload(name) for name in PATTERNS},
                "scopes": {name: self.scope(name) for name in ROLES},
                "grants": {f"g{number}": self.grant() for number in range(self.random.randint(1, 4))},
                "denies": {f"d{number}": self.deny() for number in range(self.random.choice([0, 0, 1, 2]))},
            }
        )

    def edited(self, world: World) -> World:
        """The same map with a few changes, as people make them."""
        other: World = json.loads(json.dumps(world))
        for _ in range(self.random.randint(1, 3)):
            section = self.random.choice(["workloads", "scopes", "grants", "grants", "grants", "denies"])
            if section in ("workloads", "scopes"):
                name = self.random.choice([*other[section]])
                other[section][name] = self.workload(name) if section == "workloads" else self.scope(name)
            elif other[section] and self.chance(4):
                other[section].pop(self.random.choice([*other[section]]))
            elif section == "grants" and other[section] and not self.chance(3):
                grant, name = other[section][self.random.choice([*other[section]])], self.random.choice(CONDITIONS)
                grant.pop(name, None)
                if self.chance(2):
                    grant[name] = self.condition(name)
            else:
                make = self.grant if section == "grants" else self.deny
                other[section][f"{section[0]}{self.random.randint(0, 5)}"] = make()
        return repaired(other)

    def pair(self) -> tuple[World, World]:
        world = self.world()
        return world, self.world() if self.chance(4) else self.edited(world)

    def request(self) -> AccessRequest:
        random = self.random
        parts = [random.choice(SEGMENTS) for _ in range(random.randint(1, 2))]
        claim = random.choice([*parts, *FLOWS, "r1", "q"])
        moment = timedelta(
            days=random.choice([0, 1, 2, 27, 28, 29, 91, 92, 237, 238, 305, 306, 400]),
            minutes=random.choice([30 * random.randrange(48), 30 * random.randrange(48) + 29]),
            seconds=random.choice([0, 29, 31]),
        )
        return AccessRequest(
            agent="/".join(
                [
                    STRANGER if self.chance(30) else random.choice(DOMAINS),
                    random.choice(["w", "w", "w", "q", "etl"]),
                    *parts,
                ]
            ),
            workflow=random.choice([parts[-1], parts[0], claim]),
            run=random.choice([parts[-1], parts[0], claim, "r1"]),
            step=random.choice([parts[0], "s"]),
            scope=random.choice([*ROLES]),
            now=NOW + moment,
            proven=random.choice([True, False]),
            definition_digest=random.choice(["", *DIGESTS, "other"]),
            address=random.choice(ADDRESSES),
            attempt=random.choice([1, 2, 3, 4]),
        )

    def requests(self, number: int) -> list[AccessRequest]:
        return [self.request() for _ in range(number)]


def repaired(world: World) -> World:
    """What does not load is taken out: approvals without owners, templates that a workload does not capture."""
    world = json.loads(json.dumps(world))
    for grant in world["grants"].values():
        for scope in list(grant["scopes"]):
            role = world["scopes"][scope]["fake"]["role"]
            used = [one for one in ("{name}", "{kind}") if one in role]
            if any(one not in world["workloads"][name]["id"] for one in used for name in grant["workloads"]):
                grant["scopes"].remove(scope)
        if any("owners" not in world["workloads"][name] for name in grant["workloads"]):
            grant.pop("approvals", None)
    world["grants"] = {name: grant for name, grant in world["grants"].items() if grant["scopes"]}
    return world


def compiled(world: World) -> ScopeMap:
    return parse(json.dumps(world), "map.yaml", KINDS)


def every_question() -> Iterator[AccessRequest]:
    """All of a small universe: one segment after the first, what the maps say of it, and something else."""
    agents = [f"{D}/{one}" for one in ("w/etl", "w/q", "w/odd.name", "q/q", "q/p")]
    agents += [f"{PARTNER}/w/etl", f"{STRANGER}/w/etl"]
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
