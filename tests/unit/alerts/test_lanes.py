"""What is due is brought to each receiver, at least once, and one that is dead delays only its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.alert import AlertRule, Severity
from broker.alerts import lanes
from broker.alerts.compensations import NoticeLane
from broker.alerts.lanes import AlertLane
from broker.alerts.pace import MOST, pause
from broker.alerts.post import Away, Post, Refused
from broker.alerts.signature import Signer
from broker.errors import StoreError
from broker.store.notices import Notice
from tests.fakes.alerting import Desk, FakeSink, an_alert, desk
from tests.fakes.world import World, world
from tests.support.certs import TestCA
from tests.support.doors import door


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as found:
        yield found


@pytest.fixture
def told(made: World, tmp_path: Path) -> Desk:
    return desk(made, tmp_path, door(TestCA(tmp_path, "dev.local").root_path, "dev.local"))


def lane(told: Desk, sink: FakeSink) -> AlertLane:
    return AlertLane(sink, told.ledger, told.world.core.metrics)


def deliveries(told: Desk, outcome: str, sink: str = "pager") -> float:
    value = told.world.core.metrics.registry.get_sample_value
    return value("stepcred_alert_deliveries_total", {"sink": sink, "outcome": outcome}) or 0.0


async def later(told: Desk, seconds: float) -> None:
    told.world.fake_clock.advance(seconds)
    await told.world.engine.renew()


async def refuse_to_write(_operation: object) -> object:
    raise StoreError("the disk is gone")


async def test_the_same_alert_a_hundred_times_is_one_message(told: Desk) -> None:
    sink = FakeSink()
    pager = lane(told, sink)
    for _ in range(100):
        await told.sound(an_alert())
        await pager.round()
    await told.hush(an_alert())
    for _ in range(3):
        await pager.round()
    assert sink.told == [("1", "firing"), ("1", "resolved")]
    assert deliveries(told, "taken") == 2


async def test_what_fired_and_is_over_before_the_sink_took_it_is_told_as_firing_first(told: Desk) -> None:
    sink = FakeSink()
    pager = lane(told, sink)
    sink.fails = Away("no answer")
    for _ in range(2):  # twice, and told of once
        await told.sound(an_alert())
        with pytest.raises(Away):
            await pager.round()
        await told.hush(an_alert())
    sink.fails = None
    for _ in range(3):
        await pager.round()
    assert sink.told == [("1", "firing"), ("1", "resolved")]
    firing, resolved = (row for rows in sink.sent for row in rows)
    assert (firing.serial, resolved.serial, firing.since) == (3, 4, resolved.since)


async def test_a_sink_that_needs_time_to_tell_of_it_is_given_that(told: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = FakeSink(batch=8)
    sink.shows_for = timedelta(minutes=5)
    pager = lane(told, sink)
    await told.sound(an_alert())
    await told.hush(an_alert())
    monkeypatch.setattr(told.ledger, "write", refuse_to_write)  # also when it cannot be marked at once
    await pager.round()
    await pager.round()
    monkeypatch.undo()
    await pager.round()
    await later(told, 299)
    await pager.round()
    assert sink.told == [("1", "firing")]
    await later(told, 2)
    await pager.round()
    assert sink.told == [("1", "firing"), ("1", "resolved")]


async def test_a_sink_that_is_away_is_told_later_and_nothing_is_lost(told: Desk) -> None:
    sink = FakeSink()
    pager = lane(told, sink)
    sink.fails = Away("no answer")
    for n in range(3):
        await told.sound(an_alert(n))
    with pytest.raises(Away):
        await pager.round()
    assert sink.tries == 1  # one that hangs is not asked for each of them
    sink.fails = None
    await pager.round()
    assert sorted(sink.told) == [("0", "firing"), ("1", "firing"), ("2", "firing")]
    assert deliveries(told, "away") == 1


async def test_one_that_is_refused_spoils_no_other_and_is_tried_again(told: Desk) -> None:
    sink = FakeSink(batch=8)
    pager = lane(told, sink)
    sink.refuses = {"2"}
    for n in range(5):
        await told.sound(an_alert(n))
    await pager.round()
    assert sorted(sink.told) == [(str(n), "firing") for n in (0, 1, 3, 4)]
    tries = sink.tries
    await pager.round()
    assert sink.tries == tries  # not before its time
    sink.refuses = set()
    await later(told, 2)
    await pager.round()
    assert ("2", "firing") in sink.told
    assert len(sink.told) == 5


async def test_a_restart_in_the_middle_loses_nothing(told: Desk) -> None:
    """The new process knows what is in the database, and nothing else."""
    sink = FakeSink()
    for n in range(4):
        await told.sound(an_alert(n))
    sink.refuses = {"1", "3"}
    await lane(told, sink).round()
    sink.refuses = set()
    await later(told, 60)
    await lane(told, sink).round()
    assert sorted(sink.told) == [(str(n), "firing") for n in range(4)]


async def test_what_is_less_than_a_sink_wants_is_not_sent_there(told: Desk) -> None:
    sink = FakeSink()
    sink.min_severity = Severity.CRITICAL
    await told.sound(an_alert(1))
    await told.sound(an_alert(2, AlertRule.GUARD_HELD))
    await lane(told, sink).round()
    assert sink.told == [("2", "firing")]
    assert await told.world.store.read(lambda tx: tx.waiting_for(["pager"])) == {}


async def test_a_mark_that_cannot_be_written_has_nothing_sent_twice(
    told: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = FakeSink()
    pager = lane(told, sink)
    await told.sound(an_alert())
    monkeypatch.setattr(told.ledger, "write", refuse_to_write)
    for _ in range(3):
        await pager.round()
    assert sink.told == [("1", "firing")]
    monkeypatch.undo()
    await pager.round()
    assert await told.world.store.read(lambda tx: tx.waiting_for(["pager"])) == {}
    assert sink.told == [("1", "firing")]


async def test_sinks_are_told_what_cannot_be_written(told: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unreadable(_operation: object) -> object:
        raise StoreError("the disk is gone")

    sink = FakeSink()
    pager = lane(told, sink)
    told.operators = "bad"
    monkeypatch.setattr(told.ledger, "write", refuse_to_write)
    monkeypatch.setattr(told.ledger, "read", unreadable)
    await told.watcher.round()
    for _ in range(3):
        await pager.round()
    assert sink.told == [("operators-refused", "firing")]
    monkeypatch.undo()
    told.operators = ""
    await told.look()
    await pager.round()
    assert sink.told[-1] == ("operators-refused", "resolved")


async def test_what_fires_is_told_again_where_it_is_forgotten(told: Desk) -> None:
    sink = FakeSink(batch=8, tell_again=60.0)
    pager = lane(told, sink)
    await told.sound(an_alert())
    await pager.round()
    await later(told, 30)
    await pager.round()
    assert len(sink.sent) == 1
    await later(told, 31)
    await pager.round()
    await pager.round()
    assert sink.told == [("1", "firing")] * 2
    await told.hush(an_alert())
    await later(told, 61)
    await pager.round()
    assert sink.told[2:] == [("1", "resolved")]


class Hangs(FakeSink):
    """It takes what it is sent, and never answers."""

    async def send(self, rows: object) -> None:
        self.tries += 1
        await asyncio.Event().wait()


async def test_a_hanging_sink_delays_only_its_own_and_no_mint(told: Desk) -> None:
    dead, well = Hangs("dead"), FakeSink("well")
    running = [asyncio.create_task(lanes.run(lane(told, sink), told.ledger)) for sink in (dead, well)]
    made = told.world
    await told.sound(an_alert())
    opened = await made.begin()
    for _ in range(5):
        await made.issue(opened.handle)
        await made.fake_clock.run(3)
    await told.sound(an_alert(2))
    await made.fake_clock.run(3)
    assert len(made.backend.mints) == 5
    assert well.told == [("1", "firing"), ("2", "firing")]
    assert dead.tries == 1
    waiting = await made.store.read(lambda tx: tx.waiting_for(["dead", "well"]))
    assert list(waiting.values()) == [["dead"], ["dead"]]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_a_lane_goes_on_ever_more_slowly(told: Desk) -> None:
    sink = FakeSink()
    sink.fails = Away("no answer")
    await told.sound(an_alert())
    task = asyncio.create_task(lanes.run(lane(told, sink), told.ledger))
    await told.world.fake_clock.run(600)
    assert 10 <= sink.tries <= 40
    sink.fails = None
    await told.world.fake_clock.run(MOST + 1)
    assert sink.told == [("1", "firing")]
    task.cancel()


def test_pauses_grow_to_a_cap_and_are_never_in_step() -> None:
    for attempts in (1, 2, 5, 60, 10**9):
        pauses = {pause(attempts) for _ in range(20)}
        assert len(pauses) > 1
        assert all(timedelta(0) < one <= timedelta(seconds=MOST) for one in pauses)
    assert min(pause(60) for _ in range(50)) >= timedelta(seconds=MOST / 2)


class FakePost(Post):
    """Takes what is sent, or not."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.fails: Exception | None = None
        self.ids: list[str] = []

    async def send(self, body: bytes, headers: object = None) -> None:
        assert isinstance(headers, dict)
        self.ids.append(headers["webhook-id"])
        if self.fails is not None:
            raise self.fails


def notice_lane(told: Desk, post: Post) -> NoticeLane:
    signer = Signer(Ed25519PrivateKey.generate(), told.world.clock)
    return NoticeLane("undo", post, signer, "dev", told.ledger, told.world.core.metrics)


async def add_notice(told: Desk, name: str = "n" * 16) -> None:
    now = told.world.clock.now()
    body = {"step": "load", "workflow": "nightly", "leases": ["a"]}
    one = Notice(id=name, target="undo", body=body, created_at=now, next_try_at=now)
    await told.world.store.write(lambda tx: tx.add_notice(one))


async def test_a_compensation_is_told_until_it_is_taken_and_journalled_once(told: Desk) -> None:
    post = FakePost()
    undo = notice_lane(told, post)
    await add_notice(told)
    post.fails = Away("no answer")
    with pytest.raises(Away):
        await undo.round()
    post.fails = Refused("it answered 400")
    await undo.round()
    await undo.round()  # not before its time
    assert post.ids == ["n" * 16] * 2
    post.fails = None
    await later(told, 2)
    await undo.round()
    await undo.round()
    assert post.ids == ["n" * 16] * 3  # the receiver knows a repetition by it
    (record,) = await told.world.journal("COMPENSATION")
    assert (record["step"], record["data"]["receiver"], record["data"]["attempts"]) == ("load", "undo", 2)
    assert await told.world.store.read(lambda tx: tx.unsent_notices()) == {}
    assert deliveries(told, "taken", "compensation.undo") == 1


async def test_a_compensation_that_was_taken_and_not_marked_is_not_told_again(
    told: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = FakePost()
    undo = notice_lane(told, post)
    await add_notice(told)
    monkeypatch.setattr(told.ledger, "write", refuse_to_write)
    await undo.round()
    await undo.round()
    monkeypatch.undo()
    await undo.round()
    assert post.ids == ["n" * 16]
    assert len(await told.world.journal("COMPENSATION")) == 1


async def test_a_refused_compensation_keeps_no_other_back(told: Desk) -> None:
    post = FakePost()
    undo = notice_lane(told, post)
    await add_notice(told, "a" * 16)
    post.fails = Refused("it answered 400")
    await undo.round()
    await add_notice(told, "b" * 16)
    post.fails = None
    await undo.round()
    assert post.ids == ["a" * 16, "b" * 16]
