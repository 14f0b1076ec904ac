"""`Expiration`: whoever asks again by then never holds what a successor has ended."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from stepcred._credentials import VaultToken
from stepcred._keeping import Kept
from stepcred._models import Lease, LeaseState, Revocability, Tier
from tests.fakes.broker_server import FakeBroker
from tests.unit.client.sidecar.conftest import Start

LAKE = "/v1/aws/lake-write"
LEASE = Lease(
    lease_id="lease-1",
    scope="lake-write",
    tier=Tier.LOW,
    revocability=Revocability.EXACT,
    state=LeaseState.ACTIVE,
    issued_at=None,
    expires_at=None,
    successor_from=None,
)
seconds = st.integers(0, 10**6)  # whole ones: sums are exact


@given(due=seconds | st.just(math.inf), life=seconds | st.just(math.inf), now=seconds, overlap=seconds)
def test_it_is_never_later_than_the_end_or_than_a_successors_claim(
    due: float, life: float, now: float, overlap: float
) -> None:
    token = VaultToken(lease=LEASE, token="x", address="", namespace="")
    fresh = Kept(scope="lake-write", credential=token, ends=life, due=due, overlap=overlap).fresh(now)
    assert 0 <= fresh <= max(life - now, 0)
    claimed = max(due, now) + overlap  # at the earliest, if it is minted at once
    assert now + fresh <= claimed


async def test_no_reader_is_told_a_time_after_which_its_session_is_dead(fake: FakeBroker, start: Start) -> None:
    fake.ttl, fake.ripe, fake.heartbeat = timedelta(seconds=6), 0.1, 1.5
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    told: list[datetime] = []
    while (answer := await sidecar.get(LAKE)).body["SecretAccessKey"] == "s3cret-lease-1":
        told.append(datetime.fromisoformat(answer.body["Expiration"]))
        await asyncio.sleep(0.05)
    while not any("lease-2" in beat.held_lease_ids for beat in fake.requests("Heartbeat")):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    claimed = time.time()
    assert len(told) > 10
    assert max(told).timestamp() <= claimed
