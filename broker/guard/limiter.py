"""How fast one agent may ask at all: stands before policy, so that a storm costs next to nothing.

In memory only. What must survive a restart is the guard's business.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLimit:
    """Requests of one agent, over all methods."""

    per_second: float = 50.0
    burst: int = 100
    max_agents: int = 10_000  # remembered at once, about 200 bytes each

    def __post_init__(self) -> None:
        if self.per_second <= 0 or self.burst < 1 or self.max_agents < 1:
            raise ValueError("per_second, burst and max_agents must be greater than zero")


class _Bucket:
    __slots__ = ("tokens", "used_at")

    def __init__(self, tokens: float, used_at: float) -> None:
        self.tokens = tokens
        self.used_at = used_at


class RequestLimiter:
    """A token bucket per agent, in a bounded table. For one event loop."""

    def __init__(self, limit: RateLimit | None = None) -> None:
        self._limit = limit or RateLimit()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # the longest unused first
        self._shared = _Bucket(self._limit.burst, 0.0)

    def wait(self, agent: str, now: float) -> float:
        """0.0 when this request may pass (and is counted), else the seconds until one may.

        `now` is `Clock.monotonic()`.
        """
        limit, bucket = self._limit, self._bucket(agent, now)
        passed = now - bucket.used_at
        tokens = bucket.tokens + passed * limit.per_second if passed > 0 else bucket.tokens
        tokens = min(tokens, limit.burst)
        bucket.used_at = now
        if tokens >= 1:
            bucket.tokens = tokens - 1
            return 0.0
        bucket.tokens = tokens
        return (1 - tokens) / limit.per_second

    def __len__(self) -> int:
        return len(self._buckets)

    def _bucket(self, agent: str, now: float) -> _Bucket:
        bucket = self._buckets.get(agent)
        if bucket is not None:
            self._buckets.move_to_end(agent)
            return bucket
        if len(self._buckets) >= self._limit.max_agents:
            # Only a bucket that is full again is forgotten, for that loses nothing: with plain LRU, a crowd of
            # other names would push an emptied bucket out and hand its owner a new one. When none is, strangers
            # share one bucket until there is room.
            oldest = next(iter(self._buckets.values()))
            if (now - oldest.used_at) * self._limit.per_second < self._limit.burst:
                return self._shared
            self._buckets.popitem(last=False)
        bucket = self._buckets[agent] = _Bucket(self._limit.burst, now)
        return bucket
