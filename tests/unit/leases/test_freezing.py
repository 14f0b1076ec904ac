"""What operators have stopped: nothing that fits is minted or delivered, and everything else goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.errors import Reason
from broker.leases import committing, issuing
from broker.model import EndReason, LeaseState
from broker.store.halts import EVERYTHING, Freeze
from tests.fakes.clock import START
from tests.fakes.world import ANN, LOAD, OTHER, World, agent, new_id, refusal


def freeze(**names: str) -> Freeze:
    return Freeze(id="freeze-1" if names else EVERYTHING, by="ann", reason="drill", at=START, **names)


@pytest.mark.parametrize(
    ("names", "stops"),
    [
        ({}, {"plain", "timed", "other"}),
        ({"agent": LOAD}, {"plain", "timed"}),
        ({"workflow": "nightly"}, {"plain", "timed", "other"}),
        ({"workflow": "weekly"}, set()),
        ({"run": "r2"}, {"other"}),
        ({"scope": "plain"}, {"plain", "other"}),
        ({"provider": "timed"}, {"timed"}),
        ({"agent": LOAD, "scope": "timed"}, {"timed"}),
        ({"agent": OTHER, "scope": "timed"}, set()),
    ],
)
async def test_it_stops_what_fits_all_of_its_names(broker: World, names: dict[str, str], stops: set[str]) -> None:
    mine, others = await broker.begin(["plain", "timed"]), await broker.begin(["plain"], run="r2", who=agent(OTHER))
    await broker.engine.orders.freeze(freeze(**names), ANN)
    asked = {
        "plain": broker.issue(mine.handle, "plain"),
        "timed": broker.issue(mine.handle, "timed"),
        "other": broker.issue(others.handle, "plain", who=agent(OTHER)),
    }
    answers = dict(zip(asked, await asyncio.gather(*asked.values(), return_exceptions=True), strict=True))
    assert {name for name, answer in answers.items() if getattr(answer, "reason", None) is Reason.FROZEN} == stops
    assert all(not isinstance(answer, Exception) for name, answer in answers.items() if name not in stops)


async def test_what_is_being_minted_is_never_delivered_even_if_it_is_lifted_at_once(broker: World) -> None:
    opened = await broker.begin()
    broker.provider.after_landing.clear()
    caller = asyncio.create_task(broker.issue(opened.handle))
    await broker.provider.landed.wait()
    fallen = await broker.engine.orders.freeze(freeze(scope="plain"), ANN)
    assert len(fallen.leases) == 1
    assert await broker.engine.orders.unfreeze("freeze-1", ANN) is not None
    broker.provider.after_landing.set()
    assert (await refusal(caller)).reason is Reason.FROZEN
    await broker.until(broker.nothing_alive)


async def test_a_replay_is_not_answered_while_it_holds(broker: World) -> None:
    opened = await broker.begin()
    request_id = new_id()
    await broker.issue(opened.handle, request_id=request_id)
    await broker.engine.orders.freeze(freeze(scope="plain"), ANN)
    assert (await refusal(broker.issue(opened.handle, request_id=request_id))).reason is Reason.FROZEN


@pytest.mark.parametrize("revoke", [False, True])
async def test_what_is_alive_stays_or_goes_as_asked_and_a_dry_run_says_so(broker: World, *, revoke: bool) -> None:
    opened = await broker.begin(["plain", "timed"])
    plain, timed = [(await broker.issue(opened.handle, scope)).lease.id for scope in ("plain", "timed")]
    would = await broker.engine.orders.would_freeze(freeze(scope="plain"), revoke=revoke)
    assert [one.id for one in would.leases] == [plain] * revoke
    assert await broker.store.read(lambda tx: tx.freezes()) == []
    await broker.engine.orders.freeze(freeze(scope="plain"), ANN, revoke=revoke)
    assert (await broker.lease(plain)).state is not LeaseState.ACTIVE or not revoke
    assert (await broker.lease(timed)).state is LeaseState.ACTIVE
    if revoke:
        assert (await broker.lease(plain)).end_reason is EndReason.FROZEN
    (record,) = await broker.journal("FROZEN")
    assert (record["data"]["operator"], record["data"]["why"]) == ("ann", "drill")
    assert record["data"]["selection"] == {"scope": "plain"}


async def test_it_outlives_the_process_and_is_lifted_by_its_id(broker: World) -> None:
    await broker.engine.orders.freeze(freeze(agent=LOAD), ANN)
    await broker.crash()
    await broker.start()
    opened = await broker.begin()
    assert (await refusal(broker.issue(opened.handle))).reason is Reason.FROZEN
    assert await broker.engine.orders.unfreeze("another", ANN) is None
    assert await broker.engine.orders.unfreeze("freeze-1", ANN) is not None
    assert await broker.issue(opened.handle)


@pytest.mark.parametrize("without", ["intent", "commit"])
async def test_without_either_look_something_slips_through(
    broker: World, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    """The mutants: a freeze between decision and intent, and one that dooms nothing between mint and commit."""

    def nothing(*_args: Any, **_more: Any) -> None:
        return None

    opened = await broker.begin()
    if without == "intent":
        await broker.engine.orders.freeze(freeze(scope="plain"), ANN)
        monkeypatch.setattr(issuing, "stopped", nothing)
        assert (await refusal(broker.issue(opened.handle))).reason is Reason.FROZEN  # the commit still looks
        assert len(broker.backend.mints) == 1
        return
    broker.provider.after_landing.clear()
    caller = asyncio.create_task(broker.issue(opened.handle))
    await broker.provider.landed.wait()
    await broker.store.write(lambda tx: tx.add_freeze(freeze(scope="plain")))  # without dooming what is in flight
    monkeypatch.setattr(committing, "stopped", nothing)
    broker.provider.after_landing.set()
    assert await caller
