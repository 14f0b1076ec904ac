"""Conditions that the database shows."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import timedelta

from broker.alert import Alert, AlertRule
from broker.alerts.events import KEY
from broker.clock import Moment
from broker.guard.timing import guard_time
from broker.model import LeaseState
from broker.store.base import Tx
from broker.store.halts import EVERYTHING

IN_DOUBT_FOR = timedelta(minutes=2)  # a late mint can land for a minute and a half; then a look settles it
HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
USUAL_HOURS = 3  # active ones within the week, or nothing is usual yet
NOTICE_OVERDUE = timedelta(minutes=5)
EACH = 50  # alerts of one rule that agents can bring about at will; more of them are one alert


def overdue(tx: Tx, now: Moment) -> Iterator[Alert]:
    """Credentials that should be dead and are not proven so: one alert for a provider."""
    yield from _stuck(tx, now, LeaseState.REVOKING, AlertRule.REVOCATION_OVERDUE, "should be dead, and not proven so")


def in_doubt(tx: Tx, now: Moment) -> Iterator[Alert]:
    """Mints of which nobody knows whether they made something."""
    yield from _stuck(tx, now, LeaseState.IN_DOUBT, AlertRule.LEASE_IN_DOUBT, "may or may not have been made")


def _stuck(tx: Tx, now: Moment, state: LeaseState, rule: AlertRule, what: str) -> Iterator[Alert]:
    for (provider, found), count in tx.stuck_leases(now.wall - IN_DOUBT_FOR).items():
        if found is state:
            labels = {"provider": provider}
            yield Alert(rule=rule, summary=f"{_count(count, 'credential')} of {provider} {what}", labels=labels)


def frozen(tx: Tx, _now: Moment) -> Iterator[Alert]:
    """One for each freeze."""
    for freeze in tx.freezes():
        fields = ("agent", "workflow", "run", "scope", "provider")
        what = {name: text for name in fields if (text := getattr(freeze, name))}
        told = "everything" if freeze.id == EVERYTHING else " ".join(f"{name}={text}" for name, text in what.items())
        yield Alert(
            rule=AlertRule.FROZEN, summary=f"nothing is minted for {told}: frozen", labels={"freeze": freeze.id, **what}
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """Approvals that nobody has decided for so long."""

    patience: timedelta

    def __call__(self, tx: Tx, now: Moment) -> Iterator[Alert]:
        pending = tx.waiting_approvals(before=now.wall - self.patience, now=now.wall, limit=EACH + 1)
        for row in pending[:EACH]:
            key = row.key
            yield Alert(
                rule=AlertRule.APPROVAL_WAITING,
                summary=f"scope {row.scope} waits for {_count(row.needed, 'approval')}",
                labels={
                    "approval": row.id,
                    "scope": row.scope,
                    "workflow": key.workflow,
                    "run": key.run,
                    "step": key.step,
                },
            )
        if len(pending) > EACH:
            yield Alert(
                rule=AlertRule.APPROVAL_WAITING, summary="many more approvals wait", labels={"approval": "more"}
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Unusual:
    """More was minted in an hour than `factor` times the mean of the week's active hours, and more than `floor`."""

    factor: int
    floor: int

    def __call__(self, tx: Tx, now: Moment) -> Iterator[Alert]:
        at = guard_time(tx, now)  # as charges have it
        for busy in tx.busy_keys(at - HOUR, at_least=self.floor + 1)[:EACH]:
            usual = tx.usual_charges(busy.hour_key, since=at - WEEK, until=at - HOUR)
            if usual.active_hours < USUAL_HOURS or busy.charges * usual.active_hours <= self.factor * usual.charges:
                continue
            row = tx.guard_row(busy.guard_key)
            about = row.about if row else {}
            labels = {name: str(about[name]) for name in ("workload", "scope") if name in about}
            mean = usual.charges / usual.active_hours
            yield Alert(
                rule=AlertRule.MINT_RATE,
                summary=f"far more credentials in the last hour than usual, which are {mean:.1f}",
                labels={KEY: busy.hour_key, **labels},
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Untold:
    """Receivers of compensations that do not take them, or that the config does not name."""

    receivers: Collection[str]

    def __call__(self, tx: Tx, now: Moment) -> Iterator[Alert]:
        for target, (_, oldest) in tx.unsent_notices().items():
            known = target in self.receivers
            if known and not _is_past(now.wall - oldest, NOTICE_OVERDUE):
                continue
            why = "does not take what it must undo" if known else "is not in the config, and something waits for it"
            yield Alert(
                rule=AlertRule.COMPENSATION_FAILING, summary=f"receiver {target} {why}", labels={"receiver": target}
            )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _is_past(since: timedelta, bound: timedelta) -> bool:
    """Also when it is yet to come: the clock was set back, and nobody knows for how long it has been."""
    return since >= bound or since < timedelta(0)
