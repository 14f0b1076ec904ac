"""I4, one attempt before the end: two clients that ask for it in the same moment never both get it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from broker.errors import BrokerError, Reason
from broker.guard.guard import Guard
from broker.guard.tiers import DEFAULT_RULES, TierRules
from broker.leases.issuing import Issuing
from broker.model import Tier
from tests.fakes import world as fakes
from tests.fakes.world import LOAD, World, agent, world
from tests.runaway.mutants import charged_later

RACES = 500
BUDGET = DEFAULT_RULES[Tier.HIGH].budget
CLIENTS = [replace(agent(LOAD), cert_sha256=letter * 64, peer=f"ipv4:{letter}") for letter in "ab"]


def roomy(tier: Tier) -> TierRules:
    """Every race has an hour of its own."""
    return replace(DEFAULT_RULES[tier], hourly=BUDGET * RACES)


@pytest.fixture(autouse=True)
def _no_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "Guard", lambda *_: Guard(roomy))


async def race(broker: World, run: str) -> tuple[int, Counter[str]]:
    """How many were minted in this run, and what the two were told."""
    before = len(broker.backend.mints)
    opened = await broker.begin(["danger"], run=run)
    for _ in range(BUDGET - 1):
        await broker.issue(opened.handle, "danger")
    told = await asyncio.gather(
        *(broker.issue(opened.handle, "danger", who=who) for who in CLIENTS), return_exceptions=True
    )
    reasons = (one.reason.value if isinstance(one, BrokerError) else type(one).__name__ for one in told)
    return len(broker.backend.mints) - before, Counter(reasons)


async def test_i4_of_two_that_race_for_the_last_attempt_never_both_get_it(tmp_path: Path) -> None:
    async with world(tmp_path, sqlite=True) as broker:
        told: Counter[str] = Counter()
        for number in range(RACES):
            minted, answers = await race(broker, f"r{number}")
            assert minted == BUDGET
            assert answers["Delivered"] <= 1
            assert answers[Reason.LOCKED.value] == 1  # and the one that was too many locks
            told += answers
        await broker.until(broker.nothing_alive, within=30)
        assert len(await broker.journal("GUARD_LOCKED")) == RACES
        assert set(told) <= {"Delivered", Reason.LOCKED.value, Reason.STEP_ENDED.value, Reason.LEASE_ENDED.value}


async def test_i4_a_charge_beside_the_intent_lets_both_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "admit", Guard.admit)  # to be put back
    monkeypatch.setattr(Issuing, "_admitted", Issuing._admitted)
    async with world(tmp_path, sqlite=True) as broker:
        charged_later(wait=0)
        found = [(await race(broker, f"r{number}"))[0] for number in range(20)]
        assert max(found) > BUDGET
