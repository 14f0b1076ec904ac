"""What operators may ask of the engine: see, revoke, end; also what is being minted."""

from __future__ import annotations

import asyncio
import json

import pytest

from broker.errors import Reason
from broker.leases.selection import Selection
from broker.model import EndReason, LeaseState
from broker.store.base import tail
from tests.fakes.world import ANN, LOAD, OTHER, World, agent, refusal


async def minted(broker: World) -> dict[str, str]:
    """Run → its lease: two steps of one agent, one of another."""
    found = {}
    for run, who, scope in (("r1", LOAD, "plain"), ("r2", LOAD, "timed"), ("r3", OTHER, "plain")):
        opened = await broker.begin([scope], run=run, who=agent(who))
        found[run] = (await broker.issue(opened.handle, scope, who=agent(who))).lease.id
    return found


@pytest.mark.parametrize(
    ("selection", "runs"),
    [
        (Selection(), set()),
        (Selection(everything=True), {"r1", "r2", "r3"}),
        (Selection(agent=LOAD), {"r1", "r2"}),
        (Selection(agent=LOAD, run="r2"), {"r2"}),
        (Selection(scope="plain"), {"r1", "r3"}),
        (Selection(provider="timed"), {"r2"}),
        (Selection(provider="timed", scope="plain"), set()),
        (Selection(workflow="nightly"), {"r1", "r2", "r3"}),
        (Selection(workflow="other"), set()),
        (Selection(step="nowhere", everything=True), set()),
    ],
)
async def test_revoking_takes_what_is_selected_and_nothing_else(
    broker: World, selection: Selection, runs: set[str]
) -> None:
    leases = await minted(broker)
    wanted = {leases[run] for run in runs}
    assert {lease.id for lease in (await broker.engine.orders.would_revoke(selection)).leases} == wanted
    assert {lease.id for lease in (await broker.engine.orders.revoke(selection, ANN)).leases} == wanted
    states = {lease_id: (await broker.lease(lease_id)).state for lease_id in leases.values()}
    assert {lease_id for lease_id, state in states.items() if state is LeaseState.ACTIVE} == set(
        leases.values()
    ) - wanted
    journal = [json.loads(entry.body) for entry in await broker.store.read(lambda tx: list(tail(tx)))]
    asked = [one for one in journal if one["kind"] == "LEASE_REVOKING" and one["reason"] == "OPERATOR"]
    assert {one["lease_id"] for one in asked} == wanted
    assert all(one["data"]["by"] == "ann" for one in asked)


async def test_what_is_being_minted_is_selected_too(broker: World) -> None:
    opened = await broker.begin()
    broker.provider.after_landing.clear()
    caller = asyncio.create_task(broker.issue(opened.handle))
    await broker.provider.landed.wait()
    (lease,) = (await broker.engine.orders.revoke(Selection(everything=True), ANN)).leases
    broker.provider.after_landing.set()
    assert (await refusal(caller)).reason is Reason.LEASE_ENDED
    await broker.until(broker.nothing_alive)
    assert (await broker.lease(lease.id)).end_reason is EndReason.OPERATOR


async def test_ending_steps_ends_their_leases_and_leaves_others_open(broker: World) -> None:
    leases = await minted(broker)
    would = await broker.engine.orders.would_revoke(Selection(scope="timed"), end_steps=True)
    assert [step.key.run for step in would.steps] == ["r2"]  # whoever holds such a credential would ask for the next
    ended = await broker.engine.orders.revoke(Selection(agent=LOAD), ANN, end_steps=True)
    assert {step.key.run for step in ended.steps} == {"r1", "r2"}
    assert (await broker.lease(leases["r3"])).state is LeaseState.ACTIVE
    assert (await broker.lease(leases["r1"])).state is not LeaseState.ACTIVE
    open_ = await broker.store.read(lambda tx: tx.open_steps())
    assert [step.key.run for step in open_] == ["r3"]
