"""What the engine gives the AWS provider: settings, leases and orders, for tests without an engine."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from broker.clock import Clock, SystemClock
from broker.model import JsonValue, Revocability
from broker.providers.aws.provider import AwsProvider
from broker.providers.aws.settings import AwsSettings
from broker.providers.base import LeaseRef, MintOrder
from tests.support.aws import key_file
from tests.support.ceph import CephServer
from tests.support.moto import MotoServer

INSTALLATION = "0123abcd4567"
LEASE = "abcdefghij234567"


def settings_at(url: str, **changes: Any) -> AwsSettings:
    """Of a broker that has no key of its own, unless `changes` say so."""
    given: dict[str, Any] = {"installation": INSTALLATION, "sts_region": "eu-west-1", "endpoint_url": url}
    return AwsSettings(**(given | changes))


def settings_of(
    server: MotoServer | CephServer, folder: Path, key: tuple[str, str] | None = None, **changes: Any
) -> AwsSettings:
    """`key`: id and secret; the administrator's unless given."""
    key_id, secret = key or server.key
    return settings_at(server.url, access_key_id=key_id, secret_access_key_file=key_file(folder, secret), **changes)


@contextlib.asynccontextmanager
async def providing(given: AwsSettings, clock: Clock | None = None, *, epoch: int = 1) -> AsyncIterator[AwsProvider]:
    """Closed at the end."""
    made = AwsProvider(given, clock or SystemClock(), epoch=lambda: epoch)
    try:
        yield made
    finally:
        await made.close()


def lease_of(
    params: Mapping[str, Any],
    at: datetime,
    *,
    life: timedelta = timedelta(minutes=5),
    lease_id: str = LEASE,
    agent: str = "spiffe://test.local/a",
    revocability: Revocability = Revocability.DENY_POLICY,
    epoch: int = 1,
) -> LeaseRef:
    """Of an intent `at`."""
    return LeaseRef(
        lease_id=lease_id,
        agent=agent,
        nonce=b"",
        kid="k1",
        params=params,
        refs={},
        revocability=revocability,
        intent_at=at,
        expires_at=at + life,
        epoch=epoch,
    )


def order_of(ref: LeaseRef, *, workflow: str = "w", run: str = "r", step: str = "s") -> MintOrder:
    return MintOrder(ref=ref, workflow=workflow, run=run, step=step, note=_unnoted)


async def _unnoted(_refs: Mapping[str, JsonValue]) -> None:
    return None
