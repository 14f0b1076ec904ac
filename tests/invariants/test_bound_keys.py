"""I8 with `bind: key`: neither a handle nor an identity is authority, once a step is held to one key.

Each check is run twice, as in `test_invariants`: on the real mechanism, and on mutants without a part of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.keyring import hash_handle
from broker.leases import beginning, issuing, standing
from broker.leases.core import Core
from broker.model import Bind, EndReason
from broker.store.base import Tx
from tests.fakes.bound import ANY_KEY, FIRST, NOBODYS, ONE_KEY, OTHER_ONE, RENEWED, calls, holder, told
from tests.fakes.launchers import launcher
from tests.fakes.world import World, new_id, refusal, world

Check = Callable[[World], Awaitable[None]]
Patch = pytest.MonkeyPatch


async def nothing_for_another_key(broker: World) -> None:
    """A handle was stolen by one who has a certificate of the same identity, over a key of its own."""
    await broker.load_map(ONE_KEY)
    begin_id, issue_id = new_id(), new_id()
    opened = await broker.begin(["plain", "timed"], who=FIRST, request_id=begin_id)
    lease = (await broker.issue(opened.handle, who=FIRST, request_id=issue_id)).lease
    minted, row = list(broker.backend.mints), await broker.step_row(opened)
    for call in calls(broker, OTHER_ONE, opened.handle, lease.id, issue_id):
        assert told(await refusal(call)) == NOBODYS
    assert told(await refusal(broker.begin(["plain", "timed"], who=OTHER_ONE, request_id=begin_id))) == NOBODYS
    assert broker.backend.mints == minted
    assert await broker.step_row(opened) == row
    assert (await broker.end(opened.handle, who=RENEWED)).all_proven


async def the_first_call_counts(broker: World) -> None:
    """Of a launched step: not its launcher's, and of two at once only one."""
    await broker.load_map(ONE_KEY.replace("bind: key", "bind: key, when: {networks: [10.0.0.0/8]}"))
    await broker.set_launchers(launcher())
    opened = await broker.launch(["plain"])
    ours, thief = (holder(key, address="10.1.1.1") for key in ("aa", "bb"))
    found = await asyncio.gather(
        *(broker.engine.heartbeat(who, opened.handle, []) for who in (ours, thief)), return_exceptions=True
    )
    assert sum(isinstance(one, Exception) for one in found) == 1
    loser = ours if isinstance(found[0], Exception) else thief
    assert told(await refusal(broker.engine.heartbeat(loser, opened.handle, []))) == NOBODYS


async def todays_map_counts(broker: World) -> None:
    """For a step that was begun when any key would do: what it asks for, and what it holds."""
    await broker.load_map(ANY_KEY)
    opened = await broker.begin(who=FIRST)
    lease = (await broker.issue(opened.handle, who=OTHER_ONE)).lease
    await broker.engine.heartbeat(FIRST, opened.handle, [lease.id])
    await broker.load_map(ONE_KEY)
    assert told(await refusal(broker.issue(opened.handle, who=OTHER_ONE))) == NOBODYS
    for _ in range(100):
        if (await broker.lease(lease.id)).end_reason is EndReason.POLICY_CHANGED:
            break
        await broker.engine.heartbeat(FIRST, opened.handle, [])
        await broker.fake_clock.run(5)
    assert (await broker.lease(lease.id)).end_reason is EndReason.POLICY_CHANGED
    await broker.issue(opened.handle, who=RENEWED)


CHECKS = [nothing_for_another_key, the_first_call_counts, todays_map_counts]


@pytest.mark.parametrize("check", CHECKS)
async def test_i8_with_bound_keys(tmp_path: Path, check: Check) -> None:
    async with world(tmp_path, sqlite=True) as broker:
        await check(broker)


# --- mutants ---


def the_identity_is_enough(patch: Patch) -> None:
    own = Core.own

    def mutant(self: Core, who: Any, step: Any) -> Any:
        own(self, who, step and replace(step, bind=Bind.IDENTITY))
        return step

    patch.setattr(Core, "own", mutant)


def who_opened_it_ends_it(patch: Patch) -> None:
    def mutant(self: Core, tx: Tx, who: Any, handle: str) -> Any:
        step = tx.step_by_handle(hash_handle(handle))
        return step if step is not None and step.opened_by == who.spiffe_id else self.own(who, step)

    patch.setattr(Core, "step_to_end", mutant)


def who_opened_it_replays_it(patch: Patch) -> None:
    patch.setattr(beginning.Beginning, "_replayed", lambda _self, _agent, step: step)


def only_the_launchers_word(patch: Patch) -> None:
    patch.setattr("broker.leases.core.held_to", lambda _map, step, **_: step.bind)


def both_first_calls_are_served(patch: Patch) -> None:
    async def mutant(self: Core, who: Any, step: Any) -> Any:
        return await self.store.write(lambda tx: self._start(tx, step, who, Bind.KEY))

    patch.setattr(Core, "start", mutant)


def a_step_is_as_it_was_begun(patch: Patch) -> None:
    patch.setattr(issuing, "must_have_begun", lambda *_: None)


def what_was_given_stays(patch: Patch) -> None:
    patch.setattr(standing, "Bind", type("Any", (), {"IDENTITY": Bind.KEY, "strictest": Bind.strictest}))


@pytest.mark.parametrize(
    ("check", "mutate"),
    [
        (nothing_for_another_key, the_identity_is_enough),
        (nothing_for_another_key, who_opened_it_ends_it),
        (nothing_for_another_key, who_opened_it_replays_it),
        (the_first_call_counts, only_the_launchers_word),
        (the_first_call_counts, both_first_calls_are_served),
        (todays_map_counts, a_step_is_as_it_was_begun),
        (todays_map_counts, what_was_given_stays),
    ],
)
async def test_i8_mutants(tmp_path: Path, monkeypatch: Patch, check: Check, mutate: Callable[[Patch], None]) -> None:
    mutate(monkeypatch)
    async with world(tmp_path) as broker:
        with pytest.raises(AssertionError):
            await check(broker)
