"""The outbox that every store keeps: alerts, how far each sink is, notices to single receivers."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from operator import methodcaller
from typing import Any, Never

import pytest

from broker.alert import Alert, AlertRule
from broker.errors import StoreError
from broker.journal.records import Kind
from broker.store import alarms
from broker.store.base import Store, Tx, tail
from broker.store.notices import AlertRow, Delivery, Notice
from tests.fakes.domain import AGENT, NOW, after

LOCKED = Alert(rule=AlertRule.GUARD_LOCKED, summary="it is locked", labels={"key": "guard-1", "scope": "lake-write"})
DOWN = Alert(rule=AlertRule.PROVIDER_DOWN, summary="vault gives no answer", labels={"provider": "vault"})


async def sound(store: Store, alert: Alert = LOCKED, *, at: datetime = NOW) -> bool:
    return await store.write(lambda tx: alarms.sound(tx, alert, at=at, agent=AGENT, scope="lake-write"))


async def hush(store: Store, alert: Alert | str = LOCKED, *, at: datetime = NOW) -> bool:
    return await store.write(lambda tx: alarms.hush(tx, alert, at=at))


async def firing(store: Store, *, resolved_too: bool = False) -> list[AlertRow]:
    return list(await store.read(lambda tx: tx.alerts(resolved_too=resolved_too)))


async def undelivered(
    store: Store, sink: str = "pager", *, now: datetime = NOW, limit: int = 10
) -> list[tuple[AlertRow, Delivery | None]]:
    return list(await store.read(lambda tx: tx.undelivered(sink, now, limit)))


async def took(store: Store, row: AlertRow, sink: str = "pager", **changes: Any) -> None:
    delivery = Delivery(sink=sink, fingerprint=row.alert.fingerprint, serial=row.serial)
    await store.write(lambda tx: tx.put_delivery(replace(delivery, **changes)))


def notice(notice_id: str = "n" * 16, **changes: Any) -> Notice:
    fields: dict[str, Any] = {
        "id": notice_id,
        "target": "undo",
        "body": {"leases": ["a", "b"], "count": 2},
        "created_at": NOW,
        "next_try_at": NOW,
    }
    return Notice(**fields | changes)


async def test_the_same_alert_a_hundred_times_is_one_and_journalled_once(store: Store) -> None:
    told = [await sound(store, replace(LOCKED, summary=f"{n}"), at=after(n)) for n in range(100)]
    assert told == [True] + [False] * 99
    (row,) = await firing(store)
    assert (row.count, row.serial, row.since, row.last_at) == (100, 1, NOW, after(99))
    assert row.alert == replace(LOCKED, summary="99")
    entries = [entry for entry in await store.read(lambda tx: list(tail(tx))) if Kind.ALERT.value in entry.body]
    assert len(entries) == 1
    assert '"rule":"guard-locked"' in entries[0].body
    assert f'"agent":"{AGENT}"' in entries[0].body


async def test_labels_in_another_order_are_the_same_alert_and_others_another(store: Store) -> None:
    assert await sound(store)
    assert not await sound(store, replace(LOCKED, labels=dict(reversed(list(LOCKED.labels.items())))))
    assert await sound(store, replace(LOCKED, labels={"key": "guard-2", "scope": "lake-write"}))
    assert await sound(store, DOWN)


async def test_an_alert_is_resolved_once_and_fires_anew(store: Store) -> None:
    assert not await hush(store)
    await sound(store)
    assert await hush(store, LOCKED.fingerprint, at=after(60))
    assert not await hush(store, at=after(61))
    assert await firing(store) == []
    (resolved,) = await firing(store, resolved_too=True)
    assert (resolved.resolved_at, resolved.serial) == (after(60), 2)
    assert await sound(store, at=after(90))
    (again,) = await firing(store, resolved_too=True)
    assert (again.since, again.count, again.serial, again.resolved_at) == (after(90), 1, 3, None)
    kinds = [entry.body for entry in await store.read(lambda tx: list(tail(tx)))]
    assert sum(Kind.ALERT_RESOLVED.value in body for body in kinds) == 1
    assert any('"lasted_seconds":60' in body for body in kinds)


async def test_what_is_undone_fires_no_alert(store: Store) -> None:
    def fails(tx: Tx) -> Never:
        alarms.sound(tx, LOCKED, at=NOW)
        raise StoreError("the disk is full")

    with pytest.raises(StoreError):
        await store.write(fails)
    assert await firing(store) == []


async def test_each_sink_is_told_each_change_until_it_takes_it(store: Store) -> None:
    await sound(store)
    ((row, delivery),) = await undelivered(store)
    assert delivery is None
    await took(store, row)
    assert await undelivered(store) == []
    ((_, other),) = await undelivered(store, "chat")
    assert other is None
    await hush(store, at=after(5))
    ((resolved, before),) = await undelivered(store, now=after(5))
    assert resolved.resolved_at == after(5)
    assert before == Delivery(sink="pager", fingerprint=LOCKED.fingerprint, serial=1)
    assert await store.read(lambda tx: tx.waiting_for(["pager", "chat"])) == {LOCKED.fingerprint: ["chat", "pager"]}
    await took(store, resolved)
    assert await store.read(lambda tx: tx.waiting_for(["pager", "chat"])) == {LOCKED.fingerprint: ["chat"]}


async def test_a_sink_that_failed_is_not_due_before_its_time(store: Store) -> None:
    await sound(store)
    ((row, _),) = await undelivered(store)
    await took(store, row, serial=0, attempts=3, next_try_at=after(30))
    assert await undelivered(store, now=after(29)) == []
    ((_, delivery),) = await undelivered(store, now=after(30))
    assert delivery is not None
    assert (delivery.serial, delivery.attempts, delivery.next_try_at) == (0, 3, after(30))


async def test_undelivered_is_bounded_and_the_oldest_change_comes_first(store: Store) -> None:
    alerts = [replace(DOWN, labels={"provider": f"p{n}"}) for n in range(5)]
    for n, alert in enumerate(alerts):
        await sound(store, alert, at=after(10 - n))
    await hush(store, alerts[4], at=after(60))
    found = [row.alert.labels["provider"] for row, _ in await undelivered(store, limit=4)]
    assert found == ["p3", "p2", "p1", "p0"]
    assert len(await undelivered(store, limit=9)) == 5


async def test_old_resolved_alerts_are_forgotten_with_their_deliveries(store: Store) -> None:
    await sound(store)
    await sound(store, DOWN)
    for row, _ in await undelivered(store):
        await took(store, row)
    await hush(store, at=after(10))
    assert await store.write(lambda tx: tx.forget_alerts(after(10), 9)) == 0
    assert await store.write(lambda tx: tx.forget_alerts(after(11), 0)) == 0
    assert await store.write(lambda tx: tx.forget_alerts(after(11), 9)) == 1
    assert [row.alert for row in await firing(store, resolved_too=True)] == [DOWN]
    await sound(store, at=after(20))
    ((row, delivery),) = await undelivered(store, now=after(20))
    assert (row.serial, delivery) == (1, None)


async def test_the_oldest_are_forgotten_first_and_so_many_at_a_time(store: Store) -> None:
    alerts = [replace(DOWN, labels={"provider": f"p{n}"}) for n in range(5)]
    for n, alert in enumerate(alerts):
        await sound(store, alert)
        await hush(store, alert, at=after(n))
    assert await store.write(lambda tx: tx.forget_alerts(after(9), 2)) == 2
    left = [row.alert.labels["provider"] for row in await firing(store, resolved_too=True)]
    assert left == ["p4", "p3", "p2"]
    assert await store.write(lambda tx: tx.forget_alerts(after(9), 9)) == 3


async def test_one_alert_is_asked_for_and_those_that_fire_are_counted_and_newest_first(store: Store) -> None:
    others = [replace(DOWN, labels={"provider": f"p{n}"}) for n in range(3)]
    for n, alert in enumerate((LOCKED, *others)):
        await sound(store, alert, at=after(n))
    await hush(store, others[0], at=after(9))
    assert await store.read(lambda tx: tx.alert("none")) is None
    resolved = await store.read(lambda tx: tx.alert(others[0].fingerprint))
    assert resolved is not None
    assert (resolved.alert, resolved.resolved_at) == (others[0], after(9))
    assert [row.alert for row in await firing(store)] == [others[2], others[1], LOCKED]
    counts = await store.read(lambda tx: dict(tx.firing_counts()))
    assert counts == {AlertRule.GUARD_LOCKED: 1, AlertRule.PROVIDER_DOWN: 2}


async def test_what_agents_bring_about_is_bounded_and_that_there_is_more_is_told_once(store: Store) -> None:
    alerts = [replace(LOCKED, labels={"run": f"{n}"}) for n in range(alarms.MOST + 5)]
    told = [await sound(store, alert) for alert in alerts]
    assert told == [True] * (alarms.MOST + 1) + [False] * 4
    assert not await sound(store, alerts[0], at=after(1))  # one that fires is counted as ever
    rows = {row.alert.labels.get("run", alarms.MORE): row for row in await firing(store)}
    assert len(rows) == alarms.MOST + 1
    assert (rows["0"].count, rows[alarms.MORE].count) == (2, 5)
    assert await sound(store, DOWN)  # of another rule
    await hush(store, alerts[0])
    await hush(store, alerts[1])
    assert await sound(store, alerts[-1])  # there is room


async def due(store: Store, *, now: datetime = NOW, limit: int = 10, target: str = "undo") -> list[Notice]:
    return list(await store.read(lambda tx: tx.due_notices(target, now, limit)))


async def test_notices_are_due_until_they_are_sent(store: Store) -> None:
    late, early = notice("b" * 16, next_try_at=after(5)), notice("a" * 16)
    other = notice("c" * 16, target="other", created_at=after(1))
    for one in (late, early, other):
        await store.write(methodcaller("add_notice", one))
    assert await due(store) == [early]
    assert await due(store, now=after(5)) == [early, late]
    assert await due(store, now=after(5), limit=1) == [early]
    assert await due(store, target="other") == [other]
    again = replace(early, attempts=1, next_try_at=after(7))
    await store.write(lambda tx: tx.put_notice(again))
    assert await due(store, now=after(9)) == [late, again]
    await store.write(lambda tx: tx.put_notice(replace(late, attempts=1, sent_at=after(6))))
    assert await due(store, now=after(9)) == [again]
    assert await store.read(lambda tx: tx.unsent_notices()) == {"undo": (1, NOW), "other": (1, after(1))}
    assert await store.write(lambda tx: tx.forget_notices(after(6))) == 0
    assert await store.write(lambda tx: tx.forget_notices(after(7))) == 1
    assert await due(store, now=after(9)) == [again]


async def test_a_clock_that_was_set_back_puts_nothing_off(store: Store) -> None:
    await sound(store)
    ((row, _),) = await undelivered(store)
    await took(store, row, serial=0, attempts=1, next_try_at=after(60))
    await store.write(lambda tx: tx.add_notice(notice(next_try_at=after(60))))
    for seconds, found in ((0, 0), (60 - 600, 0), (59 - 600, 1), (-86_400, 1), (60, 1)):
        assert len(await undelivered(store, now=after(seconds))) == found
        assert len(await due(store, now=after(seconds))) == found


async def test_a_notice_says_for_ever_what_it_was_made_to_say(store: Store) -> None:
    await store.write(lambda tx: tx.add_notice(notice()))
    await store.write(lambda tx: tx.put_notice(notice(body={"other": 1}, target="other", created_at=after(9))))
    assert await due(store) == [notice()]


async def test_a_reader_sounds_nothing(store: Store) -> None:
    for change in (
        methodcaller("raise_alert", LOCKED, at=NOW),
        methodcaller("add_notice", notice()),
        methodcaller("put_delivery", Delivery(sink="pager", fingerprint="f", serial=1)),
    ):
        with pytest.raises(StoreError):
            await store.read(change)
