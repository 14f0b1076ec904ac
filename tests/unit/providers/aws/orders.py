"""An order for a session, as the engine gives it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from broker.providers.base import MintOrder
from tests.support.aws_orders import lease_of, order_of

BOUND = datetime(2026, 11, 23, 10, 5, tzinfo=UTC)
LIFE = timedelta(minutes=5)


def order(bound: datetime = BOUND, **params: Any) -> MintOrder:
    """Of a lease that ends at `bound`."""
    agent = "spiffe://prod.acme.internal/workflow/nightly-etl/step/load"
    ref = lease_of(params, bound - LIFE, life=LIFE, lease_id="o6frhlsxpvtenmth", agent=agent)
    return order_of(ref, workflow="nightly-etl", run="r42", step="load")
