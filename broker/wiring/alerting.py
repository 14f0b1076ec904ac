"""Which alerts there are, what shows each, and who is told: one table, and the receivers of the config."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from broker.alert import Alert, AlertRule
from broker.alerts import events, stored
from broker.alerts.compensations import NoticeLane
from broker.alerts.conditions import Condition, Event, Rules
from broker.alerts.lanes import AlertLane, Lane, run
from broker.alerts.ledger import Ledger, NotOurs
from broker.alerts.post import Post
from broker.alerts.signature import Signer
from broker.alerts.sinks import AlertmanagerSink, Origin, WebhookSink
from broker.alerts.watcher import Watcher
from broker.clock import Moment
from broker.config import Alerts, Config, Receiver
from broker.config.webhook_key import load_webhook_key
from broker.identity import FrontDoor
from broker.leases.core import Core
from broker.leases.epoch import EpochLost
from broker.policy.live.records import MAP_ALERT, team_alert
from broker.providers.base import KnowsLogin, KnowsRoom
from broker.store.anchoring import Anchoring
from broker.store.base import Tx

MINT_RATE_EVERY = 60.0  # seconds: it counts a week
TOKEN_LEFT = 1 / 6  # of its life; one that is well is replaced with a third left
ROOM_TAKEN = 0.8  # of the places for early ends
STALLED = 3  # epochs' lives without the right to write: not a stall, which takes a new one at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """What the process knows, and rules look at. Quick, no I/O."""

    core: Core
    door: FrontDoor
    anchoring: Anchoring
    door_overdue: Callable[[], bool]
    operators_problem: Callable[[], str]  # "" when their file is in force


def rules(asked: Alerts, receivers: Collection[str], watched: Watched) -> Rules:
    """Every rule with what shows it. `receivers`: of compensations, by name."""
    rule, here = AlertRule, _Here(asked, watched)
    return Rules(
        conditions=(
            Condition(rule=rule.REVOCATION_OVERDUE, stored=stored.overdue),
            Condition(rule=rule.LEASE_IN_DOUBT, stored=stored.in_doubt),
            Condition(rule=rule.PROVIDER_DOWN, here=here.down),
            Condition(rule=rule.SCOPE_MAP_REFUSED, here=here.map_refused),
            Condition(rule=rule.FRONT_DOOR_REFUSED, here=here.door_refused),
            Condition(rule=rule.OPERATORS_REFUSED, here=here.operators_refused),
            Condition(rule=rule.JOURNAL_FAILING, here=here.journal_failing),
            Condition(rule=rule.CERTIFICATE_ENDS, here=here.certificates_end),
            Condition(rule=rule.TOKEN_ENDS, here=here.tokens_end),
            Condition(rule=rule.APPROVAL_WAITING, stored=stored.Waiting(patience=asked.approval_waiting)),
            Condition(
                rule=rule.MINT_RATE,
                stored=stored.Unusual(factor=asked.mint_rate_factor, floor=asked.mint_rate_floor),
                every=MINT_RATE_EVERY,
            ),
            Condition(rule=rule.FROZEN, stored=stored.frozen),
            Condition(rule=rule.COMPENSATION_FAILING, stored=stored.Untold(receivers=receivers)),
            Condition(rule=rule.REVOKE_ROOM, here=here.no_room),
        ),
        events=(
            Event(rule=rule.GUARD_LOCKED, goes_on=events.Locked(guard=watched.core.guard)),
            Event(rule=rule.GUARD_HELD, goes_on=events.held),
            Event(rule=rule.GUARD_CEILING, goes_on=events.recent),
            Event(rule=rule.BREAK_GLASS, goes_on=events.unsigned),
            Event(rule=rule.PROVIDER_CUT_OFF, goes_on=events.recent),
        ),
    )


class _Here:
    """Conditions of the process. Summaries hold names of the config, the scope map and certificates, and no problem's text."""

    def __init__(self, asked: Alerts, watched: Watched) -> None:
        self._asked = asked
        self._watched = watched
        self._fresh_at = watched.core.clock.boottime()

    def down(self, _now: Moment) -> Iterator[Alert]:
        for name, breaker in self._watched.core.breakers.items():
            if breaker.open:
                yield _alert(AlertRule.PROVIDER_DOWN, f"provider {name} gives no answer", provider=name)

    def map_refused(self, _now: Moment) -> Iterator[Alert]:
        policies = self._watched.core.policies
        if policies.last_problem:
            yield MAP_ALERT
        yield from map(team_alert, sorted(policies.teams_refused))

    def door_refused(self, now: Moment) -> Iterator[Alert]:
        for name in self._watched.door.refused():
            text = f"{name}: what is there now is refused; the last good one is in force"
            yield _alert(AlertRule.FRONT_DOOR_REFUSED, text, source=name)
        if self._watched.door.agent_fails(now.wall):
            text = "the SPIFFE agent gives nothing; what it pushed last is in force"
            yield _alert(AlertRule.FRONT_DOOR_REFUSED, text, source="agent")
        if self._watched.door_overdue():
            text = "the front door's files cannot be read: no denial or revocation in them is seen"
            yield _alert(AlertRule.FRONT_DOOR_REFUSED, text, source="all")

    def operators_refused(self, _now: Moment) -> Iterator[Alert]:
        if self._watched.operators_problem():
            yield _alert(AlertRule.OPERATORS_REFUSED, "the operators file is refused; the last good one stays")

    def journal_failing(self, _now: Moment) -> Iterator[Alert]:
        core, boot = self._watched.core, self._watched.core.clock.boottime()
        if core.epoch.fresh():
            self._fresh_at = boot
        if boot - self._fresh_at > STALLED * core.timings.epoch_life.total_seconds():
            yield _alert(AlertRule.JOURNAL_FAILING, "the database cannot be written: nothing is minted", cause="write")
        if core.store.sparing:
            yield _alert(AlertRule.JOURNAL_FAILING, "the disk is full: nothing is minted", cause="disk")
        if self._watched.anchoring.failing:
            text = "the anchor cannot be written: a restored database would not be noticed"
            yield _alert(AlertRule.JOURNAL_FAILING, text, cause="anchor")

    def certificates_end(self, now: Moment) -> Iterator[Alert]:
        ahead = self._asked.certificate_ends
        for what, at in self._watched.door.ending(now.wall, ahead=ahead).items():
            yield _alert(AlertRule.CERTIFICATE_ENDS, f"{what} ends at {at:%Y-%m-%dT%H:%M:%SZ}", what=what)

    def tokens_end(self, _now: Moment) -> Iterator[Alert]:
        for name, provider in self._watched.core.providers.items():
            if not isinstance(provider, KnowsLogin):
                continue
            left = provider.login_left()
            self._watched.core.metrics.login_ends(name, provider.login_ends())
            if left is not None and left < TOKEN_LEFT:
                text = f"the broker's login at {name} {'ends soon' if left > 0 else 'has ended'}, and is not replaced"
                yield _alert(AlertRule.TOKEN_ENDS, text, provider=name)

    def no_room(self, _now: Moment) -> Iterator[Alert]:
        core = self._watched.core
        for name, provider in core.providers.items():
            rooms = provider.rooms() if isinstance(provider, KnowsRoom) else {}
            for what, room in rooms.items():
                core.metrics.revoke_places(name, what, taken=room.taken, places=room.places)
                if room.taken >= ROOM_TAKEN * room.places:
                    text = f"{room.taken} of {room.places} places for early ends are taken at {what}"
                    yield _alert(AlertRule.REVOKE_ROOM, text, provider=name, what=what)


def _alert(rule: AlertRule, summary: str, **labels: str) -> Alert:
    return Alert(rule=rule, summary=summary, labels=labels)


async def check_receivers(config: Config) -> list[str]:
    """Who of those that are told of something cannot be reached now. Nothing is sent."""
    asked = config.alerts
    posts = {f"alerts.alertmanager.{name}": _post(one) for name, one in asked.alertmanager.items()}
    posts |= {f"alerts.webhook.{name}": _post(one) for name, one in asked.webhook.items()}
    posts |= {f"compensation.{name}": _post(one) for name, one in config.compensation.items()}
    problems = await asyncio.gather(*(post.reach() for post in posts.values()))
    return [f"{name}: {problem}" for name, problem in zip(posts, problems, strict=True) if problem]


def _lanes(config: Config, book: Ledger, core: Core) -> Iterator[Lane]:
    """One for each receiver of the config. Raises ConfigError."""
    asked, clock = config.alerts, core.clock
    origin = Origin(environment=config.environment, runbook_url=asked.runbook_url)
    for name, sink in asked.alertmanager.items():
        post = _post(sink, "/api/v2/alerts")
        yield AlertLane(AlertmanagerSink(name, post, origin, sink.min_severity, clock), book, core.metrics)
    if config.webhooks is None:  # then nothing that is signed is in the config
        return
    signer = Signer(load_webhook_key(config.webhooks.key_file), clock)
    for name, sink in asked.webhook.items():
        yield AlertLane(WebhookSink(name, _post(sink), origin, sink.min_severity, signer), book, core.metrics)
    for name, receiver in config.compensation.items():
        yield NoticeLane(name, _post(receiver), signer, config.environment, book, core.metrics)


def _post(receiver: Receiver, path: str = "") -> Post:
    return Post(receiver.url + path, ca_file=receiver.ca_file, token_file=receiver.token_file)


def ledger(core: Core) -> Ledger:
    """Of this process, while it has the right to write."""

    def fence(tx: Tx) -> None:
        try:
            core.epoch.fence(tx)
        except EpochLost:
            raise NotOurs from None

    return Ledger(core.store, fence, core.clock)


@asynccontextmanager
async def alerting(config: Config, watched: Watched) -> AsyncIterator[None]:
    """Watch and tell until the block ends; what was not told by then, the next start tells. Raises ConfigError."""
    core = watched.core
    book = ledger(core)
    watcher = Watcher(rules(config.alerts, config.compensation, watched), book, core.metrics)
    lanes = await asyncio.to_thread(lambda: list(_lanes(config, book, core)))
    tasks = [asyncio.create_task(watcher.run(), name="alerts")]
    tasks += [asyncio.create_task(run(lane, book), name=f"tell {lane.name}") for lane in lanes]
    try:
        yield
    finally:
        await _end(tasks, lanes)


async def _end(tasks: Sequence[asyncio.Task[None]], lanes: Sequence[Lane]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for lane in lanes:
        with contextlib.suppress(Exception):  # of a receiver; the daemon stops
            await lane.close()
