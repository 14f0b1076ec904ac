"""Everything wired as the daemon wires it, in this process: real receivers, a real clock, the real engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.alerts import events, lanes, watcher
from broker.clock import SystemClock
from broker.config import Alerts, AlertSink, Config, Webhooks, load
from broker.config import Receiver as UndoReceiver
from broker.config.webhook_key import load_webhook_key, make_webhook_key, public_text
from broker.store import alarms
from broker.store.anchoring import Anchoring
from broker.store.base import Tx
from broker.store.guard import GuardState
from broker.wiring import alerting
from tests.fakes.alerting import an_alert
from tests.fakes.world import MAP, World, refusal, world
from tests.support import webhooks
from tests.support.certs import TestCA
from tests.support.daemon import without_provider
from tests.support.doors import door
from tests.support.receiver import Receiver, receiver


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, sqlite=True, clock=SystemClock()) as found:
        yield found


@pytest.fixture
async def well() -> AsyncIterator[Receiver]:
    async with receiver() as found:
        yield found


@pytest.fixture
async def hanging() -> AsyncIterator[Receiver]:
    async with receiver() as found:
        found.hangs = True
        yield found


def settings(folder: Path, **sinks: Receiver) -> Config:
    key_file = folder / "webhook.key"
    make_webhook_key(key_file)
    config = load(without_provider(folder / "config").config, {})
    webhook = {name: AlertSink(url=one.url) for name, one in sinks.items()}
    return replace(config, webhooks=Webhooks(key_file=key_file), alerts=Alerts(webhook=webhook))


def watched(made: World, folder: Path) -> alerting.Watched:
    return alerting.Watched(
        core=made.core,
        door=door(TestCA(folder / "ca", "dev.local").root_path, "dev.local"),
        anchoring=Anchoring(made.store, folder / "anchor", made.clock),
        door_overdue=lambda: False,
        operators_problem=lambda: "",
    )


async def test_a_hanging_sink_delays_no_mint_and_no_other_sink(
    made: World, tmp_path: Path, well: Receiver, hanging: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "LOOK", 0.05)
    config = settings(tmp_path, well=well, hanging=hanging)
    async with alerting.alerting(config, watched(made, tmp_path)):
        for _ in range(100):
            await made.store.write(lambda tx: alarms.sound(tx, an_alert(), at=made.clock.now()))

        async def both_know() -> bool:
            return bool(well.messages and hanging.messages)

        await made.until(both_know)
        opened = await made.begin()
        for _ in range(10):
            await made.issue(opened.handle)
        await made.store.write(lambda tx: alarms.hush(tx, an_alert(), at=made.clock.now()))

        async def resolved() -> bool:
            waiting = await made.store.read(lambda tx: tx.waiting_for(["well", "hanging"]))
            return len(well.messages) == 2 and list(waiting.values()) == [["hanging"]]

        await made.until(resolved)
    assert len(made.backend.mints) == 10
    assert [message.json["type"] for message in well.messages] == ["stepcred.alert.firing", "stepcred.alert.resolved"]
    assert len(hanging.messages) == 1


async def test_the_next_process_tells_what_this_one_could_not(
    made: World, tmp_path: Path, hanging: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "LOOK", 0.05)
    config, looked = settings(tmp_path, pager=hanging), watched(made, tmp_path)
    await made.store.write(lambda tx: alarms.sound(tx, an_alert(), at=made.clock.now()))

    async def asked() -> bool:
        return bool(hanging.messages)

    async with alerting.alerting(config, looked):
        await made.until(asked)
    hanging.hangs = False
    first = hanging.messages.pop()
    async with alerting.alerting(config, looked):
        await made.until(asked)
    (second,) = hanging.messages
    assert second.headers["webhook-id"] == first.headers["webhook-id"]


async def test_who_cannot_be_reached_is_said_without_sending(tmp_path: Path, well: Receiver) -> None:
    config = settings(tmp_path, well=well)
    assert await alerting.check_receivers(config) == []
    gone = AlertSink(url="http://127.0.0.1:1")
    config = replace(config, alerts=Alerts(alertmanager={"gone": gone}), compensation={"undo": gone})
    found = await asyncio.wait_for(alerting.check_receivers(config), timeout=10)
    assert [problem.partition(":")[0] for problem in found] == ["alerts.alertmanager.gone", "compensation.undo"]
    assert well.messages == []


async def test_a_lock_is_told_undone_and_over_when_it_is_opened(
    made: World, tmp_path: Path, well: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the engine writes in the lock's transaction reaches people and whoever undoes it, signed."""
    monkeypatch.setattr(lanes, "LOOK", 0.05)
    monkeypatch.setattr(watcher, "EVERY", 0.05)
    await made.load_map(MAP.replace("scopes:\n", "tiers: {high: {compensate: undo}}\nscopes:\n", 1))
    config = settings(tmp_path, well=well)
    config = replace(config, compensation={"undo": UndoReceiver(url=well.url + "/undo")})
    async with alerting.alerting(config, watched(made, tmp_path)):
        opened = await made.begin(["danger"])
        for _ in range(3):
            await made.issue(opened.handle, "danger")
        await refusal(made.issue(opened.handle, "danger"))

        async def told() -> bool:
            return len(well.messages) >= 2

        await made.until(told)
        (row,) = await made.store.read(lambda tx: tx.alerts())
        guard_key = row.alert.labels[events.KEY]

        def open_it(tx: Tx) -> None:
            guard = tx.guard_row(guard_key)
            assert guard is not None
            tx.put_guard_row(replace(guard, state=GuardState.OPEN))

        await made.store.write(open_it)

        async def over() -> bool:
            return len(well.messages) >= 3

        await made.until(over)
    key = load_webhook_key(tmp_path / "webhook.key")
    said = {message.json["type"]: message for message in well.messages}
    assert said.keys() == {"stepcred.alert.firing", "stepcred.alert.resolved", "stepcred.guard.locked"}
    assert said["stepcred.alert.firing"].json["data"]["alertname"] == "guard-locked"
    undo = said["stepcred.guard.locked"]
    assert (undo.path, undo.json["receiver"], undo.json["data"]["run"]) == ("/undo", "undo", "r1")
    assert len(undo.json["data"]["leases"]) == 3
    for message in well.messages:
        assert webhooks.shown()(message.headers, message.body, public_text(key)) == message.json
    (record,) = await made.journal("COMPENSATION")
    assert record["data"]["notice"] == undo.headers["webhook-id"]
