"""What became of leases whose end was asked for, as an answer to those who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from broker.leases.core import ONLY_TIME, Core
from broker.model import Evidence, Lease, LeaseState, Revocability
from broker.providers.base import DENY_WRITTEN_AT

LOOK_EVERY = 1.0  # seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """State, evidence and exposure of one lease."""

    lease_id: str
    scope: str
    state: LeaseState
    revocability: Revocability
    evidence: Evidence | None
    time_to_dead: timedelta | None
    exposed_until: datetime | None  # latest moment at which it could still work; None once dead, or static
    deny_written_at: datetime | None = None  # progress, not evidence


def outcome_of(lease: Lease) -> Outcome:
    """As it stands in the store."""
    asked = min((at for at in (lease.doomed_at, lease.revoking_at) if at is not None), default=None)
    took = None
    if lease.ended_at is not None and asked is not None:
        took = max(timedelta(0), lease.ended_at - asked)  # the clock may have been set back in between
    dead_or_static = lease.state.terminal or lease.revocability is Revocability.STATIC
    return Outcome(
        lease_id=lease.id,
        scope=lease.scope,
        state=lease.state,
        revocability=lease.revocability,
        evidence=lease.evidence,
        time_to_dead=took,
        exposed_until=None if dead_or_static else lease.expires_at,
        deny_written_at=_deny_written_at(lease),
    )


def _deny_written_at(lease: Lease) -> datetime | None:
    told = lease.refs.get(DENY_WRITTEN_AT)
    return datetime.fromisoformat(told) if isinstance(told, str) else None


async def wait_for_evidence(core: Core, leases: Iterable[Lease], seconds: float) -> list[Outcome]:
    """Wait while waiting can help, `seconds` at most; then say how each lease stands.

    `leases`: as a transaction left them that ended in this turn of the event loop. Nobody's ending is missed in between.
    """
    rows = {lease.id: lease for lease in leases}
    told = {lease_id: core.endings.expect(lease_id) for lease_id, row in rows.items() if not _at_rest(row)}
    try:
        if told and seconds > 0:
            await _wait(core, rows, told, seconds)
    finally:
        for lease_id, future in told.items():
            core.endings.forget(lease_id, future)
    return [outcome_of(row) for row in rows.values()]


def _at_rest(lease: Lease) -> bool:
    """Dead; or all has been done, and only time can end it: a step must not wait minutes for its own end."""
    waits_for_bound = lease.state is LeaseState.REVOKING and bool(lease.refs.get(ONLY_TIME))
    return lease.state.terminal or waits_for_bound


async def _wait(
    core: Core, rows: dict[str, Lease], told: dict[str, asyncio.Future[Lease | None]], seconds: float
) -> None:
    """Until all are at rest: keeps `rows` up to date, and in `told` who is waited for.

    Woken by the endings, which bring the rows; looks by itself now and then, for a lease can end by another way than this
    process's.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while told:
        await asyncio.wait(told.values(), timeout=max(0.0, min(LOOK_EVERY, until - loop.time())))
        rows.update(_brought(told))
        unknown = [lease_id for lease_id in told if not _at_rest(rows[lease_id])]
        for lease_id in unknown:
            if told[lease_id].done():
                told[lease_id] = core.endings.expect(lease_id)  # before looking
        if unknown:
            rows.update(await _rows(core, unknown))
        for lease_id in [lease_id for lease_id in told if _at_rest(rows[lease_id])]:
            core.endings.forget(lease_id, told.pop(lease_id))
        if loop.time() >= until:
            return


def _brought(told: Mapping[str, asyncio.Future[Lease | None]]) -> dict[str, Lease]:
    done = {lease_id: future.result() for lease_id, future in told.items() if future.done()}
    return {lease_id: row for lease_id, row in done.items() if row is not None}


async def _rows(core: Core, ids: Iterable[str]) -> dict[str, Lease]:
    return await core.store.read(lambda tx: {row.id: row for row in map(tx.lease, ids) if row is not None})
