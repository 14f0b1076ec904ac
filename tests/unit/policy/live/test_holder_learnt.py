"""A map is asked about before it is in force; what is learnt decides what it may promise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from broker.model import JsonValue, Revocability, ScopeKind, Tier
from broker.policy.live.holder import Policies
from broker.policy.problems import ScopeMapError
from broker.policy.scope_map import ScopeMap
from tests.fakes.clock import FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.unit.policy.kinds import FakeKind

HEAD = """
version: 1
environment: prod
trust_domain: dev.local
tiers:
  high: {revocability: [EXACT]}
workloads:
  load: {id: "spiffe://dev.local/step/load", owners: [group:data]}
scopes:
"""
HIGH = HEAD + "  lake: {fake: {role: etl}, ttl: 10m, tier: high}\n"
LOW = HEAD + "  lake: {fake: {role: etl}, ttl: 10m, tier: low}\n"


class Learning(FakeKind):
    """Of which `why` becomes known, and then cannot be ended exactly."""

    why = ""

    def revocability(self, block: Mapping[str, JsonValue]) -> Revocability:
        return Revocability.EXPIRY_ONLY if self.why else super().revocability(block)

    def why_weaker(self, block: Mapping[str, JsonValue]) -> str:
        return self.why


class Site:
    """`truth`: what is learnt when a map is asked about."""

    def __init__(self, path: Path) -> None:
        self.kind, self.truth, self.path = Learning("fake"), "", path
        self.asked: list[str | None] = []
        kinds: Mapping[str, ScopeKind] = {"fake": self.kind}
        self.policies = Policies(path, kinds, environment="prod", settle=0, learn=self.learn)
        self.store = MemoryStore()

    async def learn(self, scope_map: ScopeMap | None) -> bool:
        self.asked.append(scope_map.digest if scope_map else None)
        changed = self.kind.why != self.truth
        self.kind.why = self.truth
        return changed

    async def start(self, text: str) -> None:
        self.path.write_text(text)
        await self.store.write(
            lambda tx: tx.start_epoch(replica="r", boot_id="b", expires_boot=1.0, at=FakeClock().now())
        )
        await self.policies.load_initial(self.store, FakeClock())

    def promise(self) -> Revocability:
        return self.policies.map.scopes["lake"].revocability


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "map.yaml")


async def test_at_a_start_a_tier_that_demands_more_is_refused_with_the_reason(site: Site) -> None:
    site.truth = "AWS refuses"
    with pytest.raises(ScopeMapError, match=r"is EXPIRY_ONLY \(AWS refuses\), and tier high takes only EXACT"):
        await site.start(HIGH)


@pytest.mark.parametrize("text", [HIGH, "bad"])
async def test_what_is_learnt_at_a_start_leaves_the_map_that_was_in_force(site: Site, text: str) -> None:
    """A right that was taken away must not keep the broker down, and all its leases alive."""
    await site.start(HIGH)
    site.truth = "AWS refuses"
    again = Policies(site.path, {"fake": site.kind}, environment="prod", settle=0, learn=site.learn)
    site.path.write_text(text)
    await again.load_initial(site.store, FakeClock())
    assert again.map.digest == site.policies.map.digest
    assert again.last_problem


async def test_a_kept_map_promises_what_is_known_today(site: Site) -> None:
    await site.start(LOW)
    site.truth = "AWS refuses"
    again = Policies(site.path, {"fake": site.kind}, environment="prod", settle=0, learn=site.learn)
    site.path.write_text("bad")
    await again.load_initial(site.store, FakeClock())
    assert again.map.scopes["lake"].revocability is Revocability.EXPIRY_ONLY


async def test_a_tier_that_takes_less_is_promised_less_from_the_first(site: Site) -> None:
    site.truth = "AWS refuses"
    await site.start(LOW)
    assert site.promise() is Revocability.EXPIRY_ONLY
    assert site.policies.generation == 1


async def test_the_same_bytes_are_another_map_once_something_else_is_known(site: Site) -> None:
    await site.start(LOW)
    assert site.promise() is Revocability.EXACT
    assert await site.policies.reload()
    assert (site.policies.generation, len(site.asked)) == (1, 1)  # nothing else is known: nobody is asked
    site.kind.why = site.truth = "AWS refuses"  # learnt in the background
    site.policies.adopted.clear()
    assert await site.policies.reload()
    assert site.promise() is Revocability.EXPIRY_ONLY
    assert site.policies.generation == 2
    assert site.policies.adopted.is_set()


async def test_what_is_learnt_later_takes_no_map_out_of_force(site: Site) -> None:
    await site.start(HIGH)
    before = site.policies.current
    site.kind.why = site.truth = "AWS refuses"
    assert not await site.policies.reload()
    assert "(AWS refuses)" in site.policies.last_problem
    assert site.policies.current is before


async def test_a_right_that_is_given_lets_the_refused_map_in(site: Site) -> None:
    await site.start(LOW)
    site.truth = "AWS refuses"
    site.path.write_text(HIGH)
    assert not await site.policies.reload()
    site.truth = ""
    assert await site.policies.reload()  # the same files, asked about again
    assert site.promise() is Revocability.EXACT
    assert site.policies.map.scopes["lake"].tier is Tier.HIGH
