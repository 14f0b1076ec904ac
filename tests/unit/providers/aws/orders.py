"""An order for a session, as the engine gives it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from broker.model import JsonValue, Revocability
from broker.providers.base import LeaseRef, MintOrder

BOUND = datetime(2026, 11, 23, 10, 5, tzinfo=UTC)


async def _note(_refs: Mapping[str, JsonValue]) -> None:
    return None


def order(bound: datetime = BOUND, **params: Any) -> MintOrder:
    """Of a lease that ends at `bound`."""
    ref = LeaseRef(
        lease_id="o6frhlsxpvtenmth",
        agent="spiffe://prod.acme.internal/workflow/nightly-etl/step/load",
        nonce=b"n" * 16,
        kid="k1",
        params=params,
        refs={},
        revocability=Revocability.DENY_POLICY,
        intent_at=bound - timedelta(minutes=5),
        expires_at=bound,
        epoch=1,
    )
    return MintOrder(ref=ref, workflow="nightly-etl", run="r42", step="load", note=_note)
