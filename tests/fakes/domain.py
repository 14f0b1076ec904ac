"""Ready-made domain objects; a test names only what it is about."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from broker.journal.records import Kind, Record
from broker.model import Certificate, Lease, LeaseState, Revocability, Step, StepKey, StepState, Tier
from broker.store.base import Request, Tx
from broker.store.guard import GuardRow

NOW = datetime(2026, 11, 1, 12, 0, 0, 123456, tzinfo=UTC)
AGENT = "spiffe://test.acme/workflow/etl/step/load"
CERTIFICATE = Certificate(spki_sha256="5c" * 32, serial_number="1f", issuer="CN=Test CA,O=Acme\\, Inc.")


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def step(step_id: str = "step-1", **changes: Any) -> Step:
    fields: dict[str, Any] = {
        "id": step_id,
        "key": StepKey(agent=AGENT, workflow="etl", run="run-1", step=step_id),
        "attempt": 1,
        "handle_hash": hashlib.sha256(step_id.encode()).digest(),
        "handle_kid": "k1",
        "request_id": f"request-of-{step_id}",
        "scopes": ("orders-read", "lake-write"),
        "state": StepState.OPEN,
        "opened_at": NOW,
        "deadline_at": after(3600),
        "last_heartbeat_at": NOW,
        "opened_by": AGENT,
    }
    return Step(**{**fields, **changes})


def lease(lease_id: str = "lease-1", **changes: Any) -> Lease:
    fields: dict[str, Any] = {
        "id": lease_id,
        "step_id": "step-1",
        "agent": AGENT,
        "request_id": f"request-of-{lease_id}",
        "scope": "orders-read",
        "provider": "vault",
        "params": {"role": "orders-ro", "depth": {"list": [1, None, True]}},
        "tier": Tier.LOW,
        "revocability": Revocability.EXACT,
        "state": LeaseState.INTENT,
        "epoch": 1,
        "policy_generation": 1,
        "nonce": hashlib.sha256(lease_id.encode()).digest()[:16],
        "kid": "k1",
        "guard_key": "guard-1",
        "intent_at": NOW,
        "expires_at": after(600),
        "certificate": CERTIFICATE,
    }
    return Lease(**{**fields, **changes})


def request(request_id: str = "request-1", **changes: Any) -> Request:
    fields: dict[str, Any] = {
        "caller": AGENT,
        "request_id": request_id,
        "method": "IssueCredential",
        "payload_hash": b"p" * 32,
        "created_at": NOW,
        "keep_until": after(86400),
    }
    return Request(**{**fields, **changes})


def guard_row(key: str = "guard-1", **changes: Any) -> GuardRow:
    fields: dict[str, Any] = {"key": key, "hour_key": "hour-1", "tier": "high", "about": {"scope": "lake-write"}}
    return GuardRow(**{**fields, **changes})


def denied(reference_id: str = "", **changes: Any) -> Record:
    return Record(**{"kind": Kind.DENIED, "at": NOW, "agent": AGENT, "reference_id": reference_id, **changes})


def seed(tx: Tx) -> None:
    """One step with one lease and one request."""
    tx.insert_step(step())
    tx.insert_lease(lease())
    tx.insert_request(request())
