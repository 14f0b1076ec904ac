"""Leased secrets that a lease's token fetched: revoked by their own ids, because a token's death is no proof.

With the database down, revoking the parent was answered 204 while the database role still logged in (measured).
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from broker.clock import Clock
from broker.providers.base import LeaseRef
from broker.providers.heard import HeardTime
from broker.providers.vault import answers
from broker.providers.vault.client import VaultClient
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.transport import VaultError, VaultLost, VaultRefused
from broker.secret import Secret

LOOKS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)  # seconds between looks: a queued revocation takes a few milliseconds
CLOCK_SKEW = timedelta(seconds=30)  # between the clocks of a cluster's servers
SENT_AT = "server_time"  # in a lease's refs: the server's time when the intent was written
REMEMBERED = 3600.0  # seconds for which a listing counts as the first of two
# Then the server calls the lease irrevocable and ignores what is queued; each ask of ours is one try (measured).
QUEUED_TRIES = 6


class Children:
    """`known`: the ids that some live lease names. `heard`: the server's clock. Errors are the transport's."""

    def __init__(
        self,
        client: VaultClient,
        settings: VaultSettings,
        clock: Clock,
        heard: HeardTime,
        known: Callable[[], Awaitable[frozenset[str]]],
    ) -> None:
        self._client = client
        self._settings = settings
        self._clock = clock
        self._heard = heard
        self._known = known
        self._suspects: dict[str, frozenset[str]] = {}  # stepcred lease → what its first listing showed
        self._when: dict[str, datetime] = {}  # id → its time of issue, while it is listed
        self._first_seen: dict[str, float] = {}  # id → monotonic time of the listing that first showed it
        self._asked: Counter[str] = Counter()  # id → times its revocation was asked for, until it is seen gone

    async def revoke(self, asker: Secret, ids: Iterable[str]) -> None:
        """Queue their revocation; harmless for those already gone (202, measured)."""
        if failure := await self.try_revoke(asker, ids):
            raise failure

    async def try_revoke(self, asker: Secret, ids: Iterable[str], *, attempts: int = 0) -> VaultError | None:
        """Each of them, whatever becomes of the others; the first failure, to be raised when the token is dead.

        `attempts`: of the lease so far, also by processes before this one.
        """
        failures = []
        for lease_id in ids:
            try:
                await self._revoke(asker, lease_id, attempts)
            except VaultError as error:
                failures.append(error)
        return failures[0] if failures else None

    async def _revoke(self, asker: Secret, lease_id: str, attempts: int) -> None:
        """When the server may have given up, because its target was down, it is told to try now."""
        self._asked[lease_id] = max(self._asked[lease_id], attempts) + 1
        if self._asked[lease_id] <= QUEUED_TRIES:
            await self._client.revoke_lease(asker, lease_id)
            return
        with contextlib.suppress(VaultRefused, VaultLost):  # whether it is gone is looked at, not believed
            await self._client.revoke_lease(asker, lease_id, now=True)

    async def alive(self, asker: Secret, ids: Iterable[str]) -> list[str]:
        """Those not seen gone, after a short series of looks."""
        left = list(ids)
        for pause in LOOKS:
            if not left:
                break
            if pause:
                await self._clock.sleep(pause)
            left = [lease_id for lease_id in left if await self._issued(asker, lease_id)]
        return left

    async def strays(self, asker: Secret, prefix: str, ref: LeaseRef) -> list[str]:
        """Leases under `prefix` that a mint of unknown outcome may have left. Ask when nothing of it can land any more.

        1. What the first listing does not show was made later, and not by this mint.
        2. Named by no live lease, and issued after the intent, by the server's own clock.
        3. An honest neighbour in flight looks the same until it is recorded. An orphan is nobody's in two listings
           that are further apart than a mint may take, and older, by the server's clock, than any that may still be
           answered. That is revoked, by its id; the rest is waited for.
        """
        found = await self._unknown(asker, prefix)
        since = _sent_at(ref) - CLOCK_SKEW
        mine = frozenset(lease_id for lease_id, issued in found.items() if issued >= since)  # (2)
        suspects = self._suspects.setdefault(ref.lease_id, mine)  # (1)
        left = suspects & found.keys()
        for pause in LOOKS[1:]:  # the token's death takes its own along, a moment later
            if not left:
                break
            await self._clock.sleep(pause)
            left &= (await self._unknown(asker, prefix)).keys()
        orphans = [one for one in left if self._is_orphan(one, found[one])]  # (3)
        await self.revoke(asker, orphans)
        left -= set(orphans) - set(await self.alive(asker, orphans))
        if not left:
            self._suspects.pop(ref.lease_id, None)
        return sorted(left)

    async def _unknown(self, asker: Secret, prefix: str) -> dict[str, datetime]:
        """Id → time of issue of those that no live lease names. Listed first, so that what was recorded by then is known.

        Each is looked up once: of many doubts, each looking at all that is listed, a hundred would ask ten thousand times.
        """
        listed = set(await self._client.list_leases(asker, prefix))
        known = await self._known() if listed else frozenset()
        found = {}
        for one in listed - known:
            if issued := self._when.get(one) or await self._issued(asker, one):
                found[one] = issued
        others = {one: at for one, at in self._when.items() if one in listed or not one.startswith(f"{prefix}/")}
        self._when = others | found
        return found

    def _is_orphan(self, lease_id: str, issued: datetime) -> bool:
        now, server = self._clock.monotonic(), self._heard.now()
        self._first_seen = {one: at for one, at in self._first_seen.items() if at > now - REMEMBERED}
        seen_for = now - self._first_seen.setdefault(lease_id, now)
        landing = timedelta(seconds=self._settings.mint_timeout + self._settings.request_limit_seconds)
        return server is not None and issued < server - landing - CLOCK_SKEW and seen_for >= self._in_flight

    @property
    def _in_flight(self) -> float:
        """Seconds from a secret's making until its lease names it, at the most: a mint's own limit, twice for the disk."""
        return 2 * self._settings.mint_timeout

    async def _issued(self, asker: Secret, lease_id: str) -> datetime | None:
        """When it was made; None when it is seen gone."""
        try:
            return issue_time(await self._client.lookup_lease(asker, lease_id))
        except VaultRefused as error:
            if answers.is_exactly(error, answers.LEASE_GONE):
                self._asked.pop(lease_id, None)
                return None
            raise


def _sent_at(ref: LeaseRef) -> datetime:
    """Before its mint was sent, by the server's clock; by ours when the server had not been heard yet."""
    told = ref.refs.get(SENT_AT)
    return datetime.fromisoformat(str(told)) if told else ref.intent_at


def issue_time(seen: Mapping[str, Any]) -> datetime:
    """Of a leased secret that was looked up: RFC 3339 with nanoseconds, which Python does not read."""
    try:
        return datetime.fromisoformat(re.sub(r"\.(\d{6})\d+", r".\1", str(seen["issue_time"]))).astimezone(UTC)
    except (KeyError, ValueError):
        raise VaultLost("the answer holds no time of issue") from None
