"""One request to the broker: sent, and sent again where that is safe. No I/O."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stepcred._flow import Call, Flow, Pause
from stepcred._keeping import elapsed
from stepcred._requests import checked_timeout
from stepcred._status import CallFailed, error_of, may_retry, pushback

RETRIES = 3
FIRST_PAUSE = 0.2  # seconds, doubled each time, ± half: a restarting broker must not meet all its clients at once
START_PAUSE = 2.0  # seconds at most between two looks at a broker that is not there yet


@dataclass(kw_only=True, slots=True)
class Calls:
    """One broker's address and default deadline."""

    addr: str
    timeout: float
    wait_broker: float = 0.0  # seconds from the first call on, for a broker that has never answered yet
    monotonic: Callable[[], float] = elapsed
    uniform: Callable[[float, float], float] = random.uniform
    _met: bool = field(default=False, init=False)
    _wait_until: float | None = field(default=None, init=False)

    def call(self, method: str, request: Any, *, timeout: float | None = None, retries: int = RETRIES) -> Flow[Any]:
        """One request, the very same again after UNAVAILABLE; `timeout` bounds all attempts together.

        They begin to count when the broker is there, as far as `wait_broker` allows it.
        """
        timeout = checked_timeout(self.timeout if timeout is None else timeout)
        deadline = self.monotonic() + timeout
        attempt = 0
        for looks in itertools.count():
            try:
                response = yield Call(method=method, request=request, timeout=max(deadline - self.monotonic(), 0.001))
            except CallFailed as failure:
                pause = self._pause(failure, looks)
                if pause is not None:
                    deadline = self.monotonic() + pause + timeout
                else:
                    asked = pushback(failure)
                    pause = asked if asked is not None else FIRST_PAUSE * 2**attempt * self.uniform(0.5, 1.5)
                    if attempt >= retries or not may_retry(failure) or self.monotonic() + pause >= deadline:
                        raise error_of(failure, self.addr) from None
                    attempt += 1
            else:
                self._met = True
                return response
            yield Pause(pause)
        raise AssertionError  # count() does not end

    def _pause(self, failure: CallFailed, looks: int) -> float | None:
        """Seconds until the next look at a broker that is not there yet; None: it is, or was waited for long enough."""
        if self._met or not self.wait_broker:
            return None
        if not may_retry(failure):  # somebody answers there
            self._met = True
            return None
        now = self.monotonic()
        if self._wait_until is None:
            self._wait_until = now + self.wait_broker
        pause = max(min(FIRST_PAUSE * 2 ** min(looks, 8), START_PAUSE) * self.uniform(0.5, 1.0), pushback(failure) or 0)
        return pause if now + pause < self._wait_until else None
