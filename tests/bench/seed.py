"""A database with many live leases: one step that a daemon has served, multiplied through the store's own API.

Everything that the daemon writes for a step with its leases is there for each: step, claimed leases, budgets and charges of
the guard, idempotency rows, journal. Names, ids, handles and keys are each one's own.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from broker import keyring
from broker.guard import keys
from broker.journal.records import Kind, Record
from broker.keyring import Keyring, hash_handle
from broker.leases.core import derive_handle
from broker.leases.ids import new_lease_id, new_nonce, new_step_id
from broker.model import Lease, LeaseState, Step
from broker.store.base import Request, Tx
from broker.store.guard import GuardRow
from broker.store.sqlite import open_store
from tests.bench.targets import TRUST_DOMAIN

FLEET = 500  # workflows that the steps are of: each with an hour of its own, as full as the guard lets it be
GROUP = (
    16  # steps in one write: a larger transaction does not fit into the page cache, and its cost grows with its square
)


@dataclass(frozen=True, kw_only=True)
class _Pattern:
    """What one lease has left in the database."""

    lease: Lease
    budget: GuardRow
    hour: GuardRow
    request: Request
    records: tuple[Record, ...]


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """What one step has left, with all of its leases."""

    step: Step
    request: Request
    record: Record
    leases: tuple[_Pattern, ...]


def multiply(database: Path, mint_key: Path, *, have: int, want: int) -> None:
    """From so many live leases to so many. The daemon that served the pattern must have ended."""
    asyncio.run(_multiply(database, keyring.load(mint_key), have=have, want=want))


async def _multiply(database: Path, ring: Keyring, *, have: int, want: int) -> None:
    store = open_store(database)
    try:
        pattern = await store.read(pattern_of)
        each = len(pattern.leases)
        numbers = range(-(-have // each), -(-want // each))  # the first step is the pattern itself
        for start in range(0, len(numbers), GROUP):
            await store.write(partial(_write, pattern=pattern, ring=ring, numbers=numbers[start : start + GROUP]))
    finally:
        await store.close()


def pattern_of(tx: Tx) -> Pattern:
    """Of the oldest open step, every one of whose leases must be alive and claimed."""
    step = min(tx.open_steps(), key=lambda one: one.opened_at)
    records = [_record(entry.body) for entry in tx.journal_of_step(step.id, limit=1000)]
    leases = []
    for lease in tx.leases_of(step.id):
        assert lease.active_at, lease.state
        assert lease.claimed_at, "not claimed"
        budget, request = tx.guard_row(lease.guard_key), tx.request(lease.agent, lease.request_id)
        assert budget, "not charged"
        assert request, "not remembered"
        hour = tx.guard_row(budget.hour_key)
        assert hour, "not charged to the hour"
        own = tuple(record for record in records if record.lease_id == lease.id)
        leases.append(_Pattern(lease=lease, budget=budget, hour=hour, request=request, records=own))
    request = tx.request(step.key.agent, step.request_id)
    assert request, "not remembered"
    (begun,) = (record for record in records if record.kind is Kind.STEP_BEGUN)
    return Pattern(step=step, request=request, record=begun, leases=tuple(leases))


def _record(body: str) -> Record:
    fields = json.loads(body)
    return Record(**fields | {"kind": Kind(fields["kind"]), "at": datetime.fromisoformat(fields["at"])})


def _write(tx: Tx, *, pattern: Pattern, ring: Keyring, numbers: range) -> None:
    for number in numbers:
        _write_step(tx, pattern, ring, number)


def _write_step(tx: Tx, pattern: Pattern, ring: Keyring, number: int) -> None:
    workflow = f"fleet{number % FLEET}"
    agent = f"spiffe://{TRUST_DOMAIN}/workflow/{workflow}/step/{pattern.step.key.step}"
    key = replace(pattern.step.key, agent=agent, workflow=workflow, run=str(uuid.uuid4()))
    asked = str(uuid.uuid4())
    handle = derive_handle(ring, pattern.step.handle_kid, key, pattern.step.attempt, asked)
    made: dict[str, Any] = {"id": new_step_id(), "key": key, "request_id": asked, "handle_hash": hash_handle(handle)}
    step = replace(pattern.step, **made, opened_by=agent)
    whose: dict[str, Any] = {"agent": agent, "workflow": workflow, "run": key.run, "step_id": step.id}
    tx.insert_step(step)
    tx.insert_request(replace(pattern.request, caller=agent, request_id=asked, step_id=step.id))
    tx.append(replace(pattern.record, **whose))
    for one in pattern.leases:
        _write_lease(tx, one, step, whose, hour_too=number < FLEET)


def _write_lease(tx: Tx, one: _Pattern, step: Step, whose: dict[str, Any], *, hour_too: bool) -> None:
    scope, key = one.lease.scope, step.key
    names: dict[str, Any] = {"workload": "load", "captures": {"workflow": key.workflow}, "scope": scope}
    about: dict[str, Any] = {"workflow": key.workflow, "run": key.run, "step": key.step}
    budget_key, hour_key = keys.guard_key(**names, **about), keys.hour_key(**names)
    whole = keys.about(**names, **about)
    made: dict[str, Any] = {
        "id": new_lease_id(),
        "step_id": step.id,
        "agent": key.agent,
        "request_id": str(uuid.uuid4()),
    }
    lease = replace(one.lease, **made, nonce=new_nonce(), guard_key=budget_key)
    intent = replace(lease, state=LeaseState.INTENT, refs={}, active_at=None, claimed_at=None)
    request = replace(one.request, caller=key.agent, request_id=lease.request_id)
    tx.put_guard_row(replace(one.budget, key=budget_key, hour_key=hour_key, about=whole))
    if hour_too:
        tx.put_guard_row(replace(one.hour, key=hour_key, hour_key=hour_key, about=keys.without_step(whole)))
    tx.add_charge(lease_id=lease.id, key=budget_key, hour_key=hour_key, at=lease.intent_at)
    tx.insert_lease(intent)
    assert lease.active_at
    assert lease.claimed_at
    tx.activate(lease.id, epoch=lease.epoch, refs=lease.refs, at=lease.active_at)
    tx.claim(lease.id, lease.claimed_at)
    tx.insert_request(replace(request, step_id=step.id, lease_id=lease.id))
    for record in one.records:
        told: dict[str, Any] = whose if record.run else {"agent": key.agent, "step_id": step.id}
        tx.append(replace(record, **told, lease_id=lease.id))
