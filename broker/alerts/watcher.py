"""Looks every few seconds at what conditions there are, sounds what is new and hushes what is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from broker.alert import Alert, AlertRule
from broker.alerts.conditions import EVERY, Condition, Rules
from broker.alerts.ledger import Ledger, NotOurs
from broker.clock import Moment
from broker.errors import StoreError
from broker.guard.timing import guard_time
from broker.log import get_logger
from broker.metrics import Metrics
from broker.store import alarms
from broker.store.base import Tx
from broker.store.notices import AlertRow

log = get_logger(__name__)

PAGE = 100  # changes in one transaction: the writer, which everybody waits for, is held for some 20 ms
PAGES = 20  # of what is forgotten, in one round; the next one goes on
FORGET_EVERY = 3600.0  # seconds
KEEP_CHARGES = timedelta(days=8)
KEEP = timedelta(days=7)  # what is resolved or sent, for whoever asks afterwards


@dataclass(kw_only=True, slots=True)
class _Seen:
    """What one round found. A rule is looked at when every look of its condition has answered: else nothing is resolved."""

    alerts: dict[str, Alert] = field(default_factory=dict)  # by fingerprint
    rules: set[AlertRule] = field(default_factory=set)
    over: list[str] = field(default_factory=list)  # fingerprints of events

    def look(self, rule: AlertRule, found: Callable[[], Iterable[Alert]]) -> None:
        try:
            self.alerts |= {alert.fingerprint: alert for alert in found()}
        except StoreError:
            raise
        except Exception:  # one that fails must not keep the others from being told
            log.exception("a condition could not be looked at", rule=rule.value)
            self.rules.discard(rule)


class Watcher:
    """One for a daemon. Also when nobody is told: operators ask the database, and scrapers the metrics."""

    def __init__(self, rules: Rules, ledger: Ledger, metrics: Metrics) -> None:
        self._rules = rules
        self._ledger = ledger
        self._metrics = metrics
        self._looked: dict[AlertRule, float] = {}
        self._firing: frozenset[str] = frozenset()  # fingerprints, when they were read last
        self._forgot = ledger.clock.monotonic()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.round()
            except Exception:  # a dead watcher tells nobody anything
                log.exception("the watcher could not finish its round")
            await self._ledger.clock.sleep(EVERY)

    async def round(self) -> None:
        """One look at everything that is due."""
        ledger, moment = self._ledger, self._ledger.clock.moment()
        due = self._due()
        seen = _Seen(rules={condition.rule for condition in due})
        for condition in due:
            if (here := condition.here) is not None:
                seen.look(condition.rule, partial(here, moment))
        try:
            firing = await ledger.read(lambda tx: self._read(tx, due, seen, moment))
            await self._write(firing, seen, moment.wall)
            await self._forget(moment)
        except (NotOurs, StoreError):
            self._remember([alert for name, alert in seen.alerts.items() if name not in self._firing])

    def _remember(self, alerts: Sequence[Alert]) -> None:
        """What is new, and cannot be written."""
        if any(alert.fingerprint not in self._ledger.unwritten for alert in alerts):
            log.error("alerts cannot be written; sinks are told from memory")
        for alert in alerts:
            self._ledger.remember(alert)

    def _due(self) -> list[Condition]:
        now = self._ledger.clock.monotonic()
        due = [one for one in self._rules.conditions if now - self._looked.get(one.rule, float("-inf")) >= one.every]
        self._looked |= {condition.rule: now for condition in due}
        return due

    def _read(self, tx: Tx, due: Sequence[Condition], seen: _Seen, moment: Moment) -> Sequence[AlertRow]:
        for condition in due:
            if (stored := condition.stored) is not None:
                seen.look(condition.rule, partial(stored, tx, moment))
        firing = tx.alerts()
        for event in self._rules.events:
            rows = (row for row in firing if row.alert.rule is event.rule)
            seen.over += [row.alert.fingerprint for row in rows if not event.goes_on(tx, row, moment)]
        return firing

    async def _write(self, firing: Sequence[AlertRow], seen: _Seen, at: datetime) -> None:
        """Only when something is new: what fires and goes on firing costs no write."""
        known = {row.alert.fingerprint: row for row in firing}
        self._firing = frozenset(known)
        late = {name: row for name, row in self._ledger.unwritten.items() if row.alert.rule in seen.rules}
        new = [
            alert
            for name, alert in seen.alerts.items()
            if name not in known or known[name].alert.summary != alert.summary
        ]
        over = [name for name, row in known.items() if row.alert.rule in seen.rules and name not in seen.alerts]

        changes: list[Callable[[Tx], bool]] = []
        changes += [partial(alarms.sound, alert=row.alert, at=row.since) for row in late.values()]
        changes += [partial(alarms.sound, alert=alert, at=at) for alert in new]
        ended = (*over, *seen.over, *(late.keys() - seen.alerts.keys()))
        changes += [partial(alarms.hush, alert=name, at=at) for name in ended]
        for start in range(0, len(changes), PAGE):
            page = changes[start : start + PAGE]
            await self._ledger.write(lambda tx, page=page: [change(tx) for change in page])  # type: ignore[misc]
        if changes:
            firing = await self._ledger.read(lambda tx: tx.alerts())
            self._firing = frozenset(row.alert.fingerprint for row in firing)
        for name in late:
            self._ledger.unwritten.pop(name, None)
        self._metrics.alerts_firing(Counter(row.alert.rule for row in firing))

    async def _forget(self, moment: Moment) -> None:
        now = self._ledger.clock.monotonic()
        if now - self._forgot < FORGET_EVERY:
            return
        for _ in range(PAGES):
            gone = await self._ledger.write(
                lambda tx: (tx.forget_alerts(moment.wall - KEEP, PAGE), _charges(tx, moment))
            )
            if max(gone) < PAGE:
                await self._ledger.write(lambda tx: tx.forget_notices(moment.wall - KEEP))
                self._forgot = now
                return


def _charges(tx: Tx, moment: Moment) -> int:
    """The guard counts an hour of them, by its own time, and what is usual a week.

    A lease that is in doubt for longer is proven VOID without getting its attempt back: stricter, and rare.
    """
    return tx.forget_charges(guard_time(tx, moment) - KEEP_CHARGES, PAGE)
