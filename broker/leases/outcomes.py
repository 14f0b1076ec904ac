"""What became of leases whose end was asked for, as an answer to those who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
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
    """Wait while waiting can help, `seconds` at most; then say how each lease stands."""
    ids = [lease.id for lease in leases]
    futures = {lease_id: core.endings.expect(lease_id) for lease_id in ids}  # before looking
    try:
        rows = await _rows(core, ids)
        open_ = [futures[row.id] for row in rows if not _at_rest(row)]
        if open_ and seconds > 0:
            rows = await _wait(core, ids, open_, seconds)
    finally:
        for lease_id, future in futures.items():
            core.endings.forget(lease_id, future)
    return [outcome_of(row) for row in rows]


def _at_rest(lease: Lease) -> bool:
    """Dead; or all has been done, and only time can end it: a step must not wait minutes for its own end."""
    waits_for_bound = lease.state is LeaseState.REVOKING and bool(lease.refs.get(ONLY_TIME))
    return lease.state.terminal or waits_for_bound


async def _wait(core: Core, ids: list[str], open_: list[asyncio.Future[None]], seconds: float) -> list[Lease]:
    """Woken by the endings; looks by itself now and then, for a lease can end by another way than this process's."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while True:
        pause = max(0.0, min(LOOK_EVERY, until - loop.time()))
        if waiting := [future for future in open_ if not future.done()]:
            await asyncio.wait(waiting, timeout=pause)
        else:
            await asyncio.sleep(pause)
        rows = await _rows(core, ids)
        if loop.time() >= until or all(map(_at_rest, rows)):
            return rows


async def _rows(core: Core, ids: list[str]) -> list[Lease]:
    return await core.store.read(lambda tx: [row for row in map(tx.lease, ids) if row is not None])
