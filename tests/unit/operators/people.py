"""Operators and what they decide on, ready made."""

from __future__ import annotations

import inspect
from datetime import timedelta
from types import ModuleType
from typing import Any

from broker.model import StepKey
from broker.operators.model import Operator, Role, Sealed
from broker.operators.sealing import SealingKey
from broker.secret import Secret
from broker.store.approvals import Approval, ApprovalState
from tests.fakes.domain import AGENT, NOW, after

KEY = SealingKey(bytes(range(32)))
SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # of RFC 6238, appendix B: ASCII 12345678901234567890


def operator(name: str = "ann", **changes: Any) -> Operator:
    fields: dict[str, Any] = {
        "name": name,
        "roles": frozenset({Role.RESPONDER, Role.APPROVER}),
        "ids": (f"spiffe://test.acme/operator/{name}",),
        "groups": frozenset({"platform"}),
        "second_factor": KEY.seal(name, 1, Secret(SECRET)),
    }
    return Operator(**{**fields, **changes})


def sealed_for(name: str, revision: int = 1, secret: str = SECRET) -> Sealed:
    return KEY.seal(name, revision, Secret(secret))


def approval(**changes: Any) -> Approval:
    fields: dict[str, Any] = {
        "id": "a" * 16,
        "key": StepKey(agent=AGENT, workflow="etl", run="run-1", step="load"),
        "scope": "lake-write",
        "step_id": "step-1",
        "launcher": "spiffe://test.acme/scheduler",
        "address": "10.0.0.7",
        "workload": "load",
        "captures": {"workflow": "etl"},
        "tier": "high",
        "rule": "nightly (scopes.yaml:3:1)",
        "ttl": timedelta(minutes=5),
        "digest": "d1" * 32,
        "needed": 2,
        "state": ApprovalState.PENDING,
        "requested_at": NOW,
        "expires_at": after(3600),
    }
    return Approval(**{**fields, **changes})


def mutant(module: ModuleType, before: str, now: str) -> ModuleType:
    """This module with one piece of its source replaced."""
    source = inspect.getsource(module)
    assert source.count(before) == 1, f"{before!r} stands there {source.count(before)} times"
    made = ModuleType(module.__name__)
    made.__file__ = module.__file__
    exec(compile(source.replace(before, now), str(module.__file__), "exec"), made.__dict__)
    return made
