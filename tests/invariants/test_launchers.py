"""I8 with launchers: who opens a step for another gets nothing by it, and proves only what the map lets it say.

Each check is run twice, as in `test_invariants`: on the real mechanism, and on a mutant without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.errors import BrokerError, Reason
from broker.keyring import hash_handle
from broker.leases import beginning, opening, standing
from broker.leases.beginning import Opened
from broker.leases.core import Core
from broker.model import Lease, LeaseState, StepState
from tests.fakes.launchers import DIGEST, SCHEDULER, launcher
from tests.fakes.world import LOAD, MAP, OTHER, World, agent, new_id, refusal, world

Check = Callable[[World], Awaitable[None]]
Patch = pytest.MonkeyPatch

SECOND = "spiffe://dev.local/scheduler-2"
LAUNCHED_MAP = MAP.replace(
    "grants:\n",
    f"""\
  pinned: {{fake: {{role: pinned}}, ttl: 10m, tier: low}}
grants:
  pinned: {{workloads: [load], workflows: [nightly], scopes: [pinned], definition_digest: ["{DIGEST}"], max_step: 2h}}
""",
)


async def launched(broker: World) -> tuple[Opened, Lease]:
    """Two launchers, a step that the first opened, and a lease that the workload holds."""
    await broker.load_map(LAUNCHED_MAP)
    await broker.set_launchers(launcher(), launcher("second", SECOND))
    opened = await broker.launch(["pinned"], digest=DIGEST)
    lease = (await broker.issue(opened.handle, "pinned")).lease
    await broker.engine.heartbeat(agent(), opened.handle, [lease.id])
    return opened, lease


def reaches(broker: World, who: str, handle: str, lease_id: str) -> Iterator[Awaitable[Any]]:
    """All that a handle is for but the end."""
    engine, caller = broker.engine, agent(who)
    yield broker.issue(handle, "pinned", who=caller)
    yield broker.issue(handle, "pinned", who=caller, replaces=lease_id)
    yield engine.heartbeat(caller, handle, [lease_id])
    yield engine.revoke_lease(caller, request_id=new_id(), handle=handle, lease_id=lease_id, wait_seconds=0)


async def no_lease(broker: World) -> None:
    """The launcher holds the handle and knows the lease: it gets what a stranger gets who made both up."""
    opened, lease = await launched(broker)
    minted = list(broker.backend.mints)
    told = set()
    for who in (SCHEDULER, SECOND, OTHER):
        for handle in (opened.handle, "x" * 26):
            for call in reaches(broker, who, handle, lease.id):
                error = await refusal(call)
                told.add((error.reason, error.message, str(error.metadata), error.retry_after))
    assert told == {(Reason.ACCESS_DENIED, "access denied", "{}", None)}, told
    assert broker.backend.mints == minted
    assert (await broker.lease(lease.id)).state is LeaseState.ACTIVE
    assert (await broker.step_row(opened)).last_heartbeat_at == opened.step.last_heartbeat_at


async def no_end_but_ones_own(broker: World) -> None:
    """Whoever did not open it, another launcher of the same workload included, does not end it."""
    opened, lease = await launched(broker)
    for who in (SECOND, OTHER):
        assert (await refusal(broker.end(opened.handle, who=agent(who)))).reason is Reason.ACCESS_DENIED
    assert (await broker.step_row(opened)).state is StepState.OPEN
    assert (await broker.lease(lease.id)).state is LeaseState.ACTIVE
    assert (await broker.end(opened.handle, who=agent(SCHEDULER))).all_proven


async def no_forged_launch(broker: World) -> None:
    """Nobody speaks for a workload but who may, and nobody for itself."""
    await launched(broker)
    before = await broker.store.read(lambda tx: tx.open_steps())
    await broker.set_launchers(launcher(workloads=["other"]))
    forged = [
        (OTHER, LOAD),  # no launcher
        (LOAD, LOAD),  # its own word
        (SCHEDULER, LOAD),  # of another launcher now
        (SCHEDULER, SCHEDULER),
        (SCHEDULER, "spiffe://elsewhere/workflow/nightly/step/other"),
    ]
    for who, workload in forged:
        error = await refusal(broker.launch(["pinned"], who=who, workload=workload, digest=DIGEST, run=new_id()))
        assert error.reason is Reason.ACCESS_DENIED, f"{who} opened a step for {workload}"
    assert await broker.store.read(lambda tx: tx.open_steps()) == before


async def no_word_of_ones_own(broker: World) -> None:
    """A launcher that is a workload too, and may launch that: what it says of itself is proven by nobody."""
    await broker.load_map(LAUNCHED_MAP)
    await broker.set_launchers(launcher(spiffe_id=LOAD))
    assert (await refusal(broker.launch(["pinned"], who=LOAD, digest=DIGEST))).reason is Reason.ACCESS_DENIED
    own = await broker.begin(["pinned"])
    assert (await refusal(broker.issue(own.handle, "pinned"))).metadata["denial"] == "NEEDS_LAUNCHER"


async def no_word_of_who_is_gone(broker: World) -> None:
    """The launcher is taken out in the middle of a step: nothing more by its word, also what is being minted."""
    opened, _ = await launched(broker)
    broker.provider.after_landing.clear()
    broker.provider.landed.clear()
    call = asyncio.create_task(broker.issue(opened.handle, "pinned"))
    await broker.provider.landed.wait()
    await broker.set_launchers(launcher("second", SECOND))
    broker.provider.after_landing.set()
    assert await failure(call) is Reason.ACCESS_DENIED, "delivered by the word of who is gone"
    assert await failure(broker.issue(opened.handle, "pinned")) is Reason.SCOPE_REFUSED, "believed who is gone"
    assert (await broker.end(opened.handle, who=agent(SCHEDULER))).all_proven


async def nothing_for_another_definition(broker: World) -> None:
    """Of a changed definition nothing is had, and the workload cannot say the good one itself."""
    opened, _ = await launched(broker)
    await broker.end(opened.handle)
    changed = await broker.launch(["pinned"], digest="sha256:" + "cd" * 32)
    assert await failure(broker.issue(changed.handle, "pinned")) is Reason.SCOPE_REFUSED, "a changed definition got it"
    await broker.end(changed.handle)
    assert await failure(broker.begin(["pinned"])) is Reason.OPENED_BY_LAUNCHER


async def failure(work: Awaitable[object]) -> Reason | None:
    try:
        await work
    except BrokerError as error:
        return error.reason
    return None


CHECKS = [
    no_lease,
    no_end_but_ones_own,
    no_forged_launch,
    no_word_of_ones_own,
    no_word_of_who_is_gone,
    nothing_for_another_definition,
]


@pytest.mark.parametrize("check", CHECKS)
async def test_i8_with_launchers(tmp_path: Path, check: Check) -> None:
    async with world(tmp_path, sqlite=True) as broker:
        await check(broker)


# --- mutants ---


def the_opener_owns(patch: Patch) -> None:
    own = Core.own

    def mutant(self: Core, who: Any, step: Any) -> Any:
        return step if step is not None and step.opened_by == who.spiffe_id else own(self, who, step)

    patch.setattr(Core, "own", mutant)


def whoever_has_the_handle_ends(patch: Patch) -> None:
    patch.setattr(Core, "step_to_end", lambda _self, tx, _, handle: tx.step_by_handle(hash_handle(handle)))


def everybody_launches(patch: Patch) -> None:
    patch.setattr(beginning, "_must_be_theirs", lambda *_: None)


def a_launcher_speaks_for_itself(patch: Patch) -> None:
    patch.setattr(opening, "_workload", lambda _, on_behalf_of: on_behalf_of)
    patch.setattr(opening.Opening, "launched", property(lambda _: True))


def once_proven_is_proven(patch: Patch) -> None:
    patch.setattr(standing, "is_proven", lambda _map, step, _now: step.proven)


def any_digest_is_the_right_one(patch: Patch) -> None:
    question = standing.question

    def mutant(*args: Any, **named: Any) -> Any:
        return replace(question(*args, **named), definition_digest=DIGEST)

    patch.setattr("broker.leases.issuing.question", mutant)


def the_workload_opens_again(patch: Patch) -> None:
    make_way = beginning.Beginning._make_way

    def mutant(self: Any, tx: Any, asked: Any, older: Any, allowed: Any, **named: Any) -> None:
        make_way(self, tx, asked, replace(older, opened_by=older.key.agent), allowed, **named)

    patch.setattr(beginning.Beginning, "_make_way", mutant)


@pytest.mark.parametrize(
    ("check", "mutate"),
    [
        (no_lease, the_opener_owns),
        (no_end_but_ones_own, whoever_has_the_handle_ends),
        (no_forged_launch, everybody_launches),
        (no_word_of_ones_own, a_launcher_speaks_for_itself),
        (no_word_of_who_is_gone, once_proven_is_proven),
        (nothing_for_another_definition, any_digest_is_the_right_one),
        (nothing_for_another_definition, the_workload_opens_again),
    ],
)
async def test_i8_mutants(tmp_path: Path, monkeypatch: Patch, check: Check, mutate: Callable[[Patch], None]) -> None:
    mutate(monkeypatch)
    async with world(tmp_path) as broker:
        with pytest.raises(AssertionError):
            await check(broker)
