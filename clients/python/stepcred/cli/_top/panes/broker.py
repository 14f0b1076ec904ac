"""The broker itself: its problems, what fires, what is frozen, and its providers."""

from __future__ import annotations

from datetime import datetime

from stepcred.cli._top import advice
from stepcred.cli._top.model import Alert, Freeze, Provider, Snapshot
from stepcred.cli._top.panes.common import ago, by_time, tone
from stepcred.cli._top.table import Cell, Column, Pane, Row, Tone
from stepcred.cli._top.words import clock

_WORST = {Tone.BAD: 0, Tone.LOOK: 1}


def rows(snapshot: Snapshot) -> list[Row]:
    return [
        *(_problem(n, text) for n, text in enumerate(snapshot.health.problems)),
        *(_alert(alert, snapshot.at) for alert in snapshot.alerts),
        *(_freeze(freeze, snapshot.at) for freeze in snapshot.freezes),
        *(_provider(provider) for provider in snapshot.health.providers),
    ]


def _problem(number: int, text: str) -> Row:
    details = (("problem", text),)
    return _row(
        ("broker", str(number), "broker"), Cell("PROBLEM", Tone.BAD), text, since=None, now=None, details=details
    )


def _alert(alert: Alert, now: datetime) -> Row:
    times = f" ({alert.count} times)" if alert.count > 1 else ""
    details = (
        ("alert", alert.rule),
        ("severity", alert.severity),
        ("summary", alert.summary),
        *alert.labels,
        ("since", clock(alert.since)),
        ("times", str(alert.count)),
        ("what to do", f"docs/{alert.runbook}" if alert.runbook else ""),
        ("not told yet", ", ".join(alert.waiting_for)),
    )
    state = Cell(alert.severity.upper(), tone(alert.severity))
    names = ("alert", alert.fingerprint, alert.rule)
    return _row(names, state, alert.summary + times, since=alert.since, now=now, details=details)


def _freeze(freeze: Freeze, now: datetime) -> Row:
    details = (
        ("freeze", freeze.freeze_id),
        ("what", freeze.what),
        ("by", freeze.by),
        ("why", freeze.reason),
        ("since", clock(freeze.at)),
    )
    text = f"{freeze.what}, by {freeze.by}: {freeze.reason}"
    names = ("freeze", freeze.freeze_id, freeze.freeze_id)
    commands = advice.for_freeze(freeze)
    return _row(names, Cell("FROZEN", Tone.BAD), text, since=freeze.at, now=now, details=details, commands=commands)


def _provider(provider: Provider) -> Row:
    if provider.breaker_open:
        state = Cell("HELD OFF", Tone.BAD)
    else:
        state = Cell("PROBLEM", Tone.BAD) if provider.problems else Cell("OK", Tone.GOOD)
    counts = f"{provider.active} active, {provider.revoking} revoking, {provider.in_doubt} in doubt"
    details = (
        ("provider", provider.name),
        ("breaker", "open: mints wait until it answers again" if provider.breaker_open else "closed"),
        ("leases", counts),
        *(("problem", problem) for problem in provider.problems),
    )
    text = "; ".join((*provider.problems, counts))
    return _row(("provider", provider.name, provider.name), state, text, since=None, now=None, details=details)


def _row(
    names: tuple[str, str, str],
    state: Cell,
    text: str,
    *,
    since: datetime | None,
    now: datetime | None,
    details: tuple[tuple[str, str], ...],
    commands: tuple[str, ...] = (),
) -> Row:
    kind, ident, name = names
    age = ago(since, now) if now else ""
    return Row(
        key=f"{kind} {ident}",
        cells=(Cell(kind), Cell(name), state, Cell(age), Cell(text)),
        orders=((_WORST.get(state.tone, len(_WORST)), by_time(since)), (kind, name), by_time(since)),
        details=details,
        commands=commands,
    )


BROKER = Pane(
    name="Broker",
    columns=(
        Column(title="WHAT", least=8, most=8),
        Column(title="NAME", least=16, most=36),
        Column(title="STATE", least=8, most=8),
        Column(title="AGE", least=5, most=6, right=True),
        Column(title="TOLD", least=38, most=200),
    ),
    orders=("worst", "kind", "oldest"),
    rows=rows,
    nothing="no provider is configured",
)
