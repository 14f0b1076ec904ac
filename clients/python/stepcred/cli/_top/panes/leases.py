"""Leases that are not terminal."""

from __future__ import annotations

from datetime import datetime

from stepcred.cli._top import advice
from stepcred.cli._top.model import Lease, Snapshot
from stepcred.cli._top.panes.common import ago, at_home, by_time, ends, tone, whose
from stepcred.cli._top.table import Cell, Column, Pane, Row, Tone
from stepcred.cli._top.words import clock, short


def rows(snapshot: Snapshot) -> list[Row]:
    domain = at_home(snapshot)
    return [_row(lease, domain, snapshot.at) for lease in snapshot.leases]


def _row(lease: Lease, domain: str, now: datetime) -> Row:
    return Row(
        key=lease.lease_id,
        cells=(
            state(lease, now),
            Cell(lease.scope),
            Cell(lease.tier, Tone.LOOK if lease.tier == "high" else Tone.PLAIN),
            Cell(ago(lease.intent_at, now)),
            ends(lease.expires_at, now),
            Cell(str(lease.tries)),
            Cell(short(lease.place.agent, domain)),
            Cell(lease.place.run),
            Cell(lease.problem, Tone.LOOK),
        ),
        orders=(
            by_time(lease.intent_at),
            by_time(lease.expires_at),
            (lease.state, by_time(lease.intent_at)),
            (lease.scope, by_time(lease.intent_at)),
        ),
        details=details(lease, now),
        commands=advice.for_lease(lease),
    )


def state(lease: Lease, now: datetime) -> Cell:
    if lease.overdue(now):
        return Cell("OVERDUE", Tone.BAD)
    if lease.doomed and lease.state == "INTENT":
        return Cell("DOOMED", Tone.LOOK)
    return Cell(lease.state, tone(lease.state))


def details(lease: Lease, now: datetime) -> tuple[tuple[str, str], ...]:
    return (
        ("lease", lease.lease_id),
        ("state", f"{lease.state}, overdue" if lease.overdue(now) else lease.state),
        *whose(lease.place),
        ("scope", lease.scope),
        ("tier", lease.tier),
        ("provider", lease.provider),
        ("can be made", lease.revocability),
        ("asked for at", clock(lease.intent_at)),
        ("works until", clock(lease.expires_at)),
        ("end asked at", "while it was minted" if lease.doomed and not lease.revoking_at else clock(lease.revoking_at)),
        ("why it ends", lease.end_reason),
        ("tries", str(lease.tries)),
        ("last problem", lease.problem),
        ("approval", lease.approval_id),
    )


LEASES = Pane(
    name="Leases",
    columns=(
        Column(title="STATE", least=8, most=8),
        Column(title="SCOPE", least=12, most=36),
        Column(title="TIER", least=8, most=8),
        Column(title="AGE", least=5, most=6, right=True),
        Column(title="ENDS", least=5, most=6, right=True),
        Column(title="TRY", least=3, most=4, right=True),
        Column(title="AGENT", least=12, most=50, keep_end=True),
        Column(title="RUN", least=9, most=40, keep_end=True),
        Column(title="PROBLEM", least=9, most=80),
    ),
    orders=("oldest", "ends next", "state", "scope"),
    rows=rows,
    nothing="no lease is alive",
)
