"""After lost state: which roles are cut off, from when, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import pytest

from broker.model import JsonValue
from broker.providers.aws.denies.policy import Cut, held_in
from broker.providers.aws.denies.recovery import RoleCutOff
from broker.providers.aws.scopes.block import LONGEST_SESSION
from broker.providers.base import DeclaredScope, Sweep, Swept
from tests.fakes.clock import START, FakeClock
from tests.fakes.iam import BLOCK, FakeIam

EARLY: Mapping[str, JsonValue] = BLOCK.model_dump(mode="json", exclude_none=True)
LATE: Mapping[str, JsonValue] = {**EARLY, "revoke": "bound"}


async def recover(iam: FakeIam, *blocks: Mapping[str, JsonValue], heard: datetime | None = None) -> Swept:
    scopes = tuple(DeclaredScope(block=block, ttl=timedelta(minutes=5)) for block in blocks)
    sweep = Sweep(since=START, scopes=scopes, leases=frozenset(), children=frozenset())
    return await RoleCutOff(lambda _block: iam, "0123abcd4567", FakeClock(), lambda: heard).sweep(sweep)


def cut(iam: FakeIam) -> Cut:
    (text,) = iam.policies.values()
    made = held_in({"PolicyDocument": text}).cut
    assert made is not None
    return made


@pytest.mark.parametrize("blocks", [(EARLY, LATE), (LATE, EARLY)])
async def test_a_role_is_cut_off_if_any_of_its_scopes_lets_its_policies_be_written(
    blocks: tuple[Mapping[str, JsonValue], ...],
) -> None:
    iam = FakeIam()
    assert len((await recover(iam, *blocks)).cut_off) == 1
    assert iam.stops("abcdefghij234567", START - timedelta(seconds=1))


@pytest.mark.parametrize("ahead", [-200, 200])
async def test_now_is_the_providers(ahead: int) -> None:
    iam, heard = FakeIam(), START + timedelta(seconds=ahead)
    (told,) = (await recover(iam, EARLY, heard=heard)).cut_off
    assert cut(iam).before == heard
    assert heard.strftime("%H:%M:%SZ") in told


async def test_it_stays_for_as_long_as_any_session_may_live_whatever_the_map_says_now() -> None:
    """Nobody knows the ttl of what is lost: the map may have been another one."""
    iam = FakeIam()
    await recover(iam, EARLY)
    assert cut(iam).until == START + LONGEST_SESSION
