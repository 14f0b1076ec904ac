"""Each condition fires, once, and is resolved when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from broker.alert import Alert, AlertRule
from broker.alerts import events, stored, watcher
from broker.alerts.conditions import Rules
from broker.alerts.ledger import NotOurs
from broker.config import Receiver
from broker.errors import StoreError
from broker.guard.timing import keep_time
from broker.model import EndReason
from broker.store import alarms
from broker.store.approvals import Approval, ApprovalState
from broker.store.base import Tx
from broker.store.guard import GuardRow, GuardState
from broker.store.halts import EVERYTHING, Freeze, Review
from broker.store.notices import Notice
from tests.fakes.alerting import Desk, an_alert, desk
from tests.fakes.domain import guard_row, lease, step
from tests.fakes.world import World, world
from tests.support.certs import TestCA
from tests.support.doors import door

T = TypeVar("T")
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as found:
        yield found


@pytest.fixture
def watched(made: World, tmp_path: Path) -> Desk:
    ca = TestCA(tmp_path, "dev.local")
    undo = {"undo": Receiver(url="http://127.0.0.1:1")}
    return desk(made, tmp_path, door(ca.root_path, "dev.local"), compensation=undo)


async def write(watched: Desk, operation: Callable[[Tx], T]) -> T:
    return await watched.world.store.write(operation)


async def kinds(watched: Desk) -> list[str]:
    return [record["kind"] for record in await watched.world.journal("ALERT", "ALERT_RESOLVED")]


async def test_nothing_fires_where_nothing_is_wrong(watched: Desk) -> None:
    assert await watched.look() == {}
    assert await watched.look(90) == {}


def test_every_rule_has_an_entry() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Rules(conditions=(), events=())


async def test_it_fires_once_and_is_resolved_once(watched: Desk) -> None:
    watched.operators = "no such role"
    for _ in range(4):
        assert await watched.look() == {"operators-refused": [{}]}
    (row,) = await watched.world.store.read(lambda tx: tx.alerts())
    assert (row.count, row.serial) == (1, 1)
    watched.operators = ""
    assert await watched.look() == {}
    assert await watched.look() == {}
    assert await kinds(watched) == ["ALERT", "ALERT_RESOLVED"]


async def test_a_provider_without_answers(watched: Desk) -> None:
    breaker = watched.world.core.breakers["fake"]
    for n in range(5):
        breaker.failed(f"lease-{n}")
    assert await watched.look() == {"provider-down": [{"provider": "fake"}]}
    breaker.answered()
    assert await watched.look() == {}


async def test_a_scope_map_and_a_team_that_are_refused(watched: Desk) -> None:
    policies = watched.world.policies
    policies.last_problem = "scopes.yaml:1:1: it is no map"
    policies.teams_refused = frozenset({"a", "b"})
    found = (await watched.look())["scope-map-refused"]
    assert sorted(labels.get("team", "") for labels in found) == ["", "a", "b"]
    policies.last_problem, policies.teams_refused = "", frozenset({"b"})
    assert await watched.look() == {"scope-map-refused": [{"team": "b"}]}


async def test_a_front_door_that_is_refused_or_not_looked_at(watched: Desk, tmp_path: Path) -> None:
    ca = TestCA(tmp_path / "ca", "dev.local")
    denied = tmp_path / "denied.toml"
    denied.write_text("")
    opened = door(ca.root_path, "dev.local", deny=denied)
    other = desk(watched.world, tmp_path, opened)
    denied.write_text("nonsense")
    for _ in range(2):
        opened.look(closely=True)
    assert (await other.look())["front-door-refused"] == [{"source": opened.refused()[0]}]
    other.overdue = True
    assert len((await other.look())["front-door-refused"]) == 2


async def test_the_journal_fails_in_three_ways(watched: Desk) -> None:
    watched.anchoring.failing = True
    assert await watched.look() == {"journal-failing": [{"cause": "anchor"}]}
    watched.anchoring.failing = False
    assert await watched.look() == {}


async def test_a_certificate_list_or_root_that_ends(watched: Desk, tmp_path: Path) -> None:
    ca = TestCA(tmp_path / "ca", "dev.local")
    opened = door(ca.root_path, "dev.local", server=ca.server())
    other = desk(watched.world, tmp_path, opened)
    assert await other.look() == {}
    at = max(opened.server.renew_by, watched.world.clock.now()) + timedelta(seconds=1)
    watched.world.fake_clock.set_wall(at)
    assert {"what": "server certificate"} in (await other.look())["certificate-ends"]
    (root,) = opened.trust.agents["dev.local"].bundle.roots
    watched.world.fake_clock.set_wall(root.not_valid_after_utc - timedelta(seconds=1))
    found = (await other.look())["certificate-ends"]
    assert any(labels["what"].startswith("a root in") for labels in found)
    watched.world.fake_clock.set_wall(root.not_valid_after_utc + timedelta(days=1))
    assert any(labels["what"].startswith("a root in") for labels in (await other.look())["certificate-ends"])


class Login:
    """A provider whose own login ends."""

    def __init__(self) -> None:
        self.left: float | None = 0.5

    def login_left(self) -> float | None:
        return self.left

    def login_ends(self) -> datetime | None:
        return datetime(2026, 11, 22, 13, tzinfo=UTC) if self.left else None

    def belongs_to(self, provider: object, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("login_left", "login_ends"):
            monkeypatch.setattr(provider, name, getattr(self, name), raising=False)


async def test_a_login_of_the_broker_that_is_not_replaced(watched: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    login = Login()
    login.belongs_to(watched.world.provider, monkeypatch)
    assert await watched.look() == {}
    for login.left in (0.1, 0.0, -3.0):
        assert await watched.look() == {"token-ends": [{"provider": "fake"}]}
    for login.left in (1.0, None):
        assert await watched.look() == {}


async def test_when_a_login_of_the_broker_ends_is_a_metric(watched: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    login, registry = Login(), watched.world.core.metrics.registry
    login.belongs_to(watched.world.provider, monkeypatch)
    for login.left, at in ((0.5, 1795352400.0), (0.0, 0.0)):
        await watched.look()
        found = registry.get_sample_value("stepcred_provider_login_ends_seconds", {"provider": "fake"})
        assert found == at


async def test_leases_that_should_be_dead_or_are_in_doubt(watched: Desk) -> None:
    now = watched.world.clock.now()

    def stuck(tx: Tx) -> None:
        tx.insert_step(step())
        for name in ("a", "b"):
            tx.insert_lease(lease(name, provider="gone", intent_at=now))
        tx.to_revoking("a", at=now, reason=EndReason.STEP_ENDED)
        tx.defer("a", next_try_at=now + timedelta(days=1), problem="no answer", refs={"alarmed": True})
        tx.to_in_doubt("b", at=now, problem="no answer")
        tx.defer("b", next_try_at=now + timedelta(days=1), problem="no answer")

    await write(watched, stuck)
    assert await watched.look() == {"revocation-overdue": [{"provider": "gone"}]}
    found = await watched.look(stored.IN_DOUBT_FOR.total_seconds())
    assert found == {"revocation-overdue": [{"provider": "gone"}], "lease-in-doubt": [{"provider": "gone"}]}


def approval(watched: Desk, name: str, **changes: object) -> Approval:
    now = watched.world.clock.now()
    key = replace(step().key, run=name)
    fields: dict[str, object] = {
        "id": name, "key": key, "scope": "danger", "step_id": "s", "launcher": "", "address": "", "workload": "load", "captures": {},
        "tier": "high", "rule": "scopes.yaml:1", "ttl": MINUTE, "digest": "d", "needed": 2,
        "state": ApprovalState.PENDING, "requested_at": now, "expires_at": now + timedelta(hours=8),
    }  # fmt: skip
    return Approval(**fields | changes)  # type: ignore[arg-type]  # by name


async def test_an_approval_that_waits(watched: Desk) -> None:
    asked = approval(watched, "a" * 16)
    await write(watched, lambda tx: tx.insert_approval(asked))
    assert await watched.look(30) == {}
    (labels,) = (await watched.look(30))["approval-waiting"]
    assert (labels["approval"], labels["scope"], labels["run"]) == (asked.id, "danger", asked.id)
    await write(watched, lambda tx: tx.put_approval(replace(asked, state=ApprovalState.APPROVED)))
    assert await watched.look() == {}


async def test_agents_cannot_flood_with_approvals(watched: Desk) -> None:
    def flood(tx: Tx) -> None:
        for n in range(120):
            tx.insert_approval(approval(watched, f"{n:016d}"))

    await write(watched, flood)
    found = (await watched.look(61))["approval-waiting"]
    assert len(found) == stored.EACH + 1
    assert {"approval": "more"} in found


async def test_who_has_waited_longest_is_told_of_however_many_came_after(watched: Desk) -> None:
    def flood(tx: Tx) -> None:
        tx.insert_approval(approval(watched, "o" * 16))
        for n in range(250):
            later = watched.world.clock.now() + timedelta(seconds=40)
            tx.insert_approval(approval(watched, f"{n:016d}", requested_at=later))

    await write(watched, flood)
    (labels,) = (await watched.look(61))["approval-waiting"]
    assert labels["approval"] == "o" * 16


async def test_more_mints_than_usual(watched: Desk) -> None:
    """Two an hour for days; then eleven in one."""
    now, hour = watched.world.clock.now(), timedelta(hours=1)

    def charges(tx: Tx, hour_key: str, count: int, ago: timedelta) -> None:
        for n in range(count):
            tx.add_charge(lease_id=f"{hour_key}-{ago}-{n}", key=f"budget-{hour_key}", hour_key=hour_key, at=now - ago)

    def usual(tx: Tx) -> None:
        for name in ("rising", "new", "once", "busy"):
            tx.put_guard_row(guard_row(f"budget-{name}", about={"workload": name, "scope": "plain", "run": "r"}))
        for ago in range(3, 60, 10):
            charges(tx, "rising", 2, ago * hour)
            charges(tx, "busy", 4, ago * hour)
        charges(tx, "once", 1, 30 * hour)
        charges(tx, "once", 50, timedelta(0))
        charges(tx, "rising", 9, timedelta(0))
        charges(tx, "busy", 19, timedelta(0))
        charges(tx, "new", 50, timedelta(0))  # nothing is usual yet; the hourly limit is the guard's

    await write(watched, usual)
    assert await watched.look(61) == {}
    await write(watched, lambda tx: charges(tx, "rising", 2, timedelta(minutes=1)))
    assert await watched.look(61) == {"mint-rate": [{"guard_key": "rising", "workload": "rising", "scope": "plain"}]}
    assert await watched.look(3600) == {}


async def test_a_freeze(watched: Desk) -> None:
    now = watched.world.clock.now()

    def freeze(tx: Tx) -> None:
        tx.add_freeze(Freeze(id=EVERYTHING, by="ann", reason="drill", at=now))
        tx.add_freeze(Freeze(id="f" * 16, by="ann", reason="drill", at=now, scope="danger"))

    await write(watched, freeze)
    found = (await watched.look())["frozen"]
    assert {"freeze": EVERYTHING} in found
    assert {"freeze": "f" * 16, "scope": "danger"} in found
    await write(watched, lambda tx: (tx.remove_freeze(EVERYTHING), tx.remove_freeze("f" * 16)))
    assert await watched.look() == {}


async def test_a_receiver_of_compensations_that_does_not_take_them_or_is_not_there(watched: Desk) -> None:
    now = watched.world.clock.now()
    for name, target in (("a" * 16, "undo"), ("b" * 16, "nobody")):
        one = Notice(id=name, target=target, body={}, created_at=now, next_try_at=now)
        await write(watched, lambda tx, one=one: tx.add_notice(one))  # type: ignore[misc]
    assert await watched.look() == {"compensation-failing": [{"receiver": "nobody"}]}
    assert len((await watched.look(300))["compensation-failing"]) == 2


GUARD_ALERTS = {
    AlertRule.GUARD_LOCKED: GuardState.LOCKED,
    AlertRule.GUARD_HELD: GuardState.HELD,
}


@pytest.mark.parametrize("rule", GUARD_ALERTS)
async def test_a_lock_and_a_hold_fire_until_they_are_opened(watched: Desk, rule: AlertRule) -> None:
    clock = watched.world.fake_clock
    row = guard_row("k", state=GUARD_ALERTS[rule], until=clock.now() + 10 * MINUTE)
    await write(watched, lambda tx: tx.put_guard_row(row))
    await watched.sound(Alert(rule=rule, summary="it is closed", labels={events.KEY: "k", "scope": "danger"}))
    assert list(await watched.look()) == [rule.value]
    await write(watched, lambda tx: tx.put_guard_row(replace(row, state=GuardState.OPEN)))
    assert await watched.look() == {}


async def lock(watched: Desk) -> GuardRow:
    """For ten minutes of guard time."""
    now = watched.world.clock.moment()

    def operation(tx: Tx) -> GuardRow:
        row = guard_row("k", tier="elevated", state=GuardState.LOCKED, until=keep_time(tx, now) + 10 * MINUTE)
        tx.put_guard_row(row)
        return row

    return await write(watched, operation)


async def test_a_lock_fires_until_its_time_is_over_however_the_wall_clock_is_set(watched: Desk) -> None:
    clock = watched.world.fake_clock
    await lock(watched)
    await watched.sound(Alert(rule=AlertRule.GUARD_LOCKED, summary="locked", labels={events.KEY: "k"}))
    clock.set_wall(clock.now() + timedelta(hours=20))
    assert list(await watched.look(300)) == ["guard-locked"]
    assert await watched.look(300) == {}


async def test_a_lock_that_no_time_ends_fires_for_a_day_or_until_it_is_opened(watched: Desk) -> None:
    clock, row = watched.world.fake_clock, await lock(watched)
    at = await write(watched, lambda tx: keep_time(tx, clock.moment()))
    high = replace(row, tier="high", locked_at=(at,))
    await write(watched, lambda tx: tx.put_guard_row(high))
    alert = Alert(rule=AlertRule.GUARD_LOCKED, summary="locked", labels={events.KEY: "k"})
    await watched.sound(alert)
    assert list(await watched.look(7200)) == ["guard-locked"]
    await write(watched, lambda tx: tx.put_guard_row(replace(high, state=GuardState.OPEN)))
    assert await watched.look() == {}
    await write(watched, lambda tx: tx.put_guard_row(high))
    await watched.sound(alert)
    clock.set_wall(clock.now() + timedelta(days=3))
    assert list(await watched.look(78_000)) == ["guard-locked"]
    assert await watched.look(2000) == {}


async def test_a_lock_that_became_a_hold_goes_on(watched: Desk) -> None:
    row = await lock(watched)
    await write(watched, lambda tx: tx.put_guard_row(replace(row, state=GuardState.HELD, until=None)))
    await watched.sound(Alert(rule=AlertRule.GUARD_LOCKED, summary="locked", labels={events.KEY: "k"}))
    assert list(await watched.look(7200)) == ["guard-locked"]


async def test_a_ceiling_and_what_names_nothing_are_over_after_a_day(watched: Desk) -> None:
    for rule in (AlertRule.GUARD_CEILING, AlertRule.GUARD_LOCKED, AlertRule.GUARD_HELD, AlertRule.BREAK_GLASS):
        await watched.sound(Alert(rule=rule, summary="something", labels={}))
    assert len(await watched.look(86_000)) == 4
    assert await watched.look(500) == {}


async def test_break_glass_fires_until_its_review_is_signed(watched: Desk) -> None:
    now = watched.world.clock.now()
    review = Review(id="r" * 16, kind="BREAK_GLASS", about={}, by="ann", reason="nobody else is awake", at=now)
    await write(watched, lambda tx: tx.add_review(review))
    await watched.sound(Alert(rule=AlertRule.BREAK_GLASS, summary="alone", labels={events.REVIEW: review.id}))
    assert list(await watched.look(90_000)) == ["break-glass"]
    await write(watched, lambda tx: tx.close_review(review.id, by="bob", at=now, note="seen"))
    assert await watched.look() == {}


async def test_a_condition_that_fails_resolves_nothing_and_keeps_no_other_back(
    watched: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = Login()
    login.belongs_to(watched.world.provider, monkeypatch)
    login.left = 0.0
    assert list(await watched.look()) == ["token-ends"]

    def fails() -> float:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(watched.world.provider, "login_left", fails)
    watched.operators = "bad"
    assert sorted(await watched.look()) == ["operators-refused", "token-ends"]


async def test_what_cannot_be_written_is_told_from_memory_and_written_later(
    watched: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched.ledger, "write", refuse_to_write)
    watched.operators = "bad"
    assert await watched.look() == {}
    ((row, delivery),) = await watched.ledger.undelivered("pager", 10)
    assert (row.alert.rule, row.serial, delivery) == (AlertRule.OPERATORS_REFUSED, 0, None)
    since = row.since
    watched.operators = ""  # it is over before it was ever written
    await watched.look(60)
    monkeypatch.undo()
    assert await watched.look() == {}
    assert watched.ledger.unwritten == {}
    assert await kinds(watched) == ["ALERT", "ALERT_RESOLVED"]
    (row,) = await watched.world.store.read(lambda tx: tx.alerts(resolved_too=True))
    assert (row.since, row.resolved_at) == (since, watched.world.clock.now())


async def refuse_to_write(_operation: object) -> object:
    raise StoreError("the disk is gone")


async def test_what_fires_already_is_not_told_again_while_nothing_is_written(
    watched: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.operators = "bad"
    await watched.look()
    monkeypatch.setattr(watched.ledger, "write", refuse_to_write)
    watched.anchoring.failing = True
    await watched.look()
    assert [row.alert.rule for row in watched.ledger.unwritten.values()] == [AlertRule.JOURNAL_FAILING]


async def test_a_process_without_the_right_to_write_writes_nothing(watched: Desk) -> None:
    watched.world.fake_clock.suspend(60)  # its epoch has run out
    with pytest.raises(NotOurs):
        await watched.ledger.write(lambda tx: tx.forget_alerts(watched.world.clock.now(), 1))
    watched.operators = "bad"
    await watched.watcher.round()
    assert await watched.firing() == {}
    assert list(await watched.look()) == ["operators-refused"]


async def test_a_database_that_is_not_written_for_long_is_told(watched: Desk) -> None:
    watched.world.fake_clock.suspend(60)
    await watched.watcher.round()
    (row,) = watched.ledger.unwritten.values()
    assert dict(row.alert.labels) == {"cause": "write"}
    assert await watched.look() == {}


async def test_many_changes_at_once_are_written_in_pages(watched: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "PAGE", 3)
    for n in range(8):
        await watched.sound(an_alert(n, AlertRule.GUARD_CEILING))
    writes, write_one = 0, watched.ledger.write

    async def counted(operation: Callable[[Tx], T]) -> T:
        nonlocal writes
        writes += 1
        return await write_one(operation)

    monkeypatch.setattr(watched.ledger, "write", counted)
    assert await watched.look(86_500) == {}
    assert (await kinds(watched)).count("ALERT_RESOLVED") == 8
    assert writes >= 3


async def test_that_more_is_held_goes_on_as_long_as_it_is_so(watched: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms, "MOST", 2)
    rows = [guard_row(f"k{n}", state=GuardState.HELD) for n in range(4)]
    for row in rows:
        await write(watched, lambda tx, row=row: tx.put_guard_row(row))  # type: ignore[misc]
        labels = {events.KEY: row.key}
        await watched.sound(Alert(rule=AlertRule.GUARD_HELD, summary="held", labels=labels))
    more = {alarms.MORE: "true"}
    assert more in (await watched.look(200_000))["guard-held"]
    await write(watched, lambda tx: tx.put_guard_row(replace(rows[3], state=GuardState.OPEN)))
    assert more in (await watched.look())["guard-held"]  # k2 is held, and was not told of
    await write(watched, lambda tx: tx.put_guard_row(replace(rows[2], state=GuardState.OPEN)))
    assert more not in (await watched.look())["guard-held"]


async def test_what_is_long_over_is_forgotten(watched: Desk) -> None:
    await watched.sound(an_alert())
    await watched.hush(an_alert())
    days = watcher.KEEP.total_seconds()
    await watched.look(days - 60)
    assert len(await watched.world.store.read(lambda tx: tx.alerts(resolved_too=True))) == 1
    await watched.look(days)
    assert await watched.world.store.read(lambda tx: tx.alerts(resolved_too=True)) == []


async def test_charges_are_forgotten_when_nobody_counts_them_by_the_guards_own_time(watched: Desk) -> None:
    clock, day = watched.world.fake_clock, 86_400.0

    def charge(tx: Tx, name: str) -> None:
        tx.add_charge(lease_id=name, key="k", hour_key="h", at=keep_time(tx, clock.moment()))

    async def left() -> int:
        return await watched.world.store.read(lambda tx: tx.count_charges("h", clock.now() - timedelta(days=3000)))

    for n in range(watcher.PAGE + 1):
        await write(watched, lambda tx, n=n: charge(tx, f"old-{n}"))  # type: ignore[misc]
    await watched.look(4 * day)
    await write(watched, lambda tx: charge(tx, "new"))
    clock.set_wall(clock.now() + timedelta(days=300))  # not the guard's time
    await watched.look(3 * day)
    assert await left() == watcher.PAGE + 2
    await watched.look(2 * day)
    assert await left() == 1


async def test_what_is_more_than_a_round_forgets_is_forgotten_in_the_next(
    watched: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "PAGE", 1)
    monkeypatch.setattr(watcher, "PAGES", 2)
    for n in range(5):
        await watched.sound(an_alert(n))
        await watched.hush(an_alert(n))
    counts = []
    for seconds in (watcher.KEEP.total_seconds() + 1, 6, 6):
        await watched.look(seconds)
        counts.append(len(await watched.world.store.read(lambda tx: tx.alerts(resolved_too=True))))
    assert counts == [3, 1, 0]


async def test_the_gauge_counts_what_fires(watched: Desk) -> None:
    watched.operators = "bad"
    await watched.look()
    value = watched.world.core.metrics.registry.get_sample_value
    assert value("stepcred_alerts_firing", {"rule": "operators-refused"}) == 1
    assert value("stepcred_alerts_firing", {"rule": "guard-held"}) == 0
    watched.operators = ""
    await watched.look()
    assert value("stepcred_alerts_firing", {"rule": "operators-refused"}) == 0


async def test_a_watcher_outlives_its_mistakes(watched: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = 0

    async def fails() -> None:
        nonlocal rounds
        rounds += 1
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(watched.watcher, "round", fails)
    task = asyncio.create_task(watched.watcher.run())
    await watched.world.fake_clock.run(12)
    task.cancel()
    assert rounds >= 2
