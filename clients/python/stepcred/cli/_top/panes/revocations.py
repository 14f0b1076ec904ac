"""Leases whose end was asked for and is not proven: the longest waiting first."""

from __future__ import annotations

from datetime import datetime

from stepcred.cli._top import advice
from stepcred.cli._top.model import Lease, Snapshot
from stepcred.cli._top.panes.common import ago, by_time, ends
from stepcred.cli._top.panes.leases import details, state
from stepcred.cli._top.table import Cell, Column, Pane, Row, Tone


def rows(snapshot: Snapshot) -> list[Row]:
    return [_row(lease, snapshot.at) for lease in snapshot.leases if lease.ending]


def _row(lease: Lease, now: datetime) -> Row:
    since = lease.revoking_at or lease.intent_at
    return Row(
        key=lease.lease_id,
        cells=(
            state(lease, now),
            Cell(lease.scope),
            Cell(lease.provider),
            Cell(ago(since, now), Tone.BAD if lease.overdue(now) else Tone.PLAIN),
            Cell(str(lease.tries)),
            ends(lease.expires_at, now),
            Cell(lease.place.run),
            Cell(lease.problem, Tone.LOOK),
        ),
        orders=(
            by_time(since),
            (-lease.tries, by_time(since)),
            (lease.provider, by_time(since)),
            (lease.scope, by_time(since)),
        ),
        details=details(lease, now),
        commands=advice.for_lease(lease),
    )


def _not_listed(snapshot: Snapshot) -> str:
    """Nobody may think that nothing is outstanding because only the first leases were asked for."""
    missing = snapshot.health.ending - sum(lease.ending for lease in snapshot.leases)
    return f"{missing} more not listed" if "leases" in snapshot.cut and missing > 0 else ""


REVOCATIONS = Pane(
    name="Revocations",
    columns=(
        Column(title="STATE", least=8, most=8),
        Column(title="SCOPE", least=13, most=36),
        Column(title="PROVIDER", least=8, most=16),
        Column(title="FOR", least=5, most=6, right=True),
        Column(title="TRY", least=3, most=4, right=True),
        Column(title="ENDS", least=5, most=6, right=True),
        Column(title="RUN", least=11, most=40, keep_end=True),
        Column(title="PROBLEM", least=19, most=100),
    ),
    orders=("longest", "most tries", "provider", "scope"),
    rows=rows,
    nothing="no revocation is outstanding",
    more=_not_listed,
)
