"""The flows that keep one live credential for each scope of a step (`_keeping` has the rules). No I/O."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

from stepcred._credentials import Credential
from stepcred._errors import DeadlineExceeded, Refused, StepcredError
from stepcred._flights import for_another
from stepcred._flow import Flow
from stepcred._keeping import IDLE, Kept
from stepcred._refusals import Given
from stepcred._step_core import StepCore

log = logging.getLogger("stepcred")


@dataclass(kw_only=True, slots=True)
class Keeper:
    """Of one step. Both clients drive it: `keep` in the background, the rest when they are asked."""

    step: StepCore

    def live(self, scope: str) -> Credential | None:
        """What is kept and has not ended."""
        return self.step.keeping.live(scope, self.step.broker.monotonic()) if self.step.alive else None

    def first(self, scope: str, *, timeout: float | None) -> Flow[Credential]:
        """A new one, charged, that is kept from now on. For one caller at a time, who has looked what is live."""
        credential = yield from self.step.issue(scope, Given(), timeout=timeout, keep=True)
        return credential

    def lasting(self, scope: str) -> Credential | None:
        """What is kept, which was live before; None: the step has ended. Raises why it can be kept no longer."""
        if not self.step.alive:
            return None
        one = self.step.keeping.of(scope)
        if one is None:
            raise Refused(f"the credential for {scope} was ended before its time", reason="LEASE_ENDED", scope=scope)
        if self.step.broker.monotonic() < one.ends:
            return one.credential
        if one.failure is not None:
            raise for_another(one.failure)
        raise DeadlineExceeded(f"the credential for {scope} has ended, and no successor came in time")

    def left_of(self, scope: str) -> float:
        """Seconds until what is kept ends by its time."""
        one = self.step.keeping.of(scope)
        return min(max(one.ends - self.step.broker.monotonic(), 0.0), IDLE) if one is not None else 0.0

    def fresh(self, scope: str) -> float:
        """Seconds for which a reader may go on with what is kept; infinite when there is none, or no end."""
        one = self.step.keeping.of(scope)
        return one.fresh(self.step.broker.monotonic()) if one is not None else math.inf

    def leave(self, scope: str, *, wait: float) -> Flow[None]:
        """One user less; the last one out takes back what is kept. `wait`: seconds, for evidence."""
        yield from self._give_back(self.step.keeping.leave(scope), wait=wait)

    def desert(self, scope: str) -> Flow[None]:
        """It has come, and everybody who wanted it has gone meanwhile. A failure is nobody's."""
        try:
            yield from self._give_back(self.step.keeping.unwanted(scope), wait=0.0)
        except StepcredError as error:
            log.info("the credential for %s came too late and was not taken back: %s", scope, error)

    def _give_back(self, one: Kept | None, *, wait: float) -> Flow[None]:
        if one is not None and self.step.alive:
            yield from self._take_back(one.lease_ids, wait=wait)

    def keep(self) -> Flow[float]:
        """What is due of successors, and of claiming them; seconds until something is again."""
        step, monotonic = self.step, self.step.broker.monotonic
        for one in step.keeping.due(monotonic()):
            yield from self._succeed(one)
        if step.claims_due():
            yield from step.heartbeat()
        return min(step.keeping.pause(monotonic()), step.next_claim())

    def _succeed(self, one: Kept) -> Flow[None]:
        """Ask for the successor. A failure is never the step's own: what is kept has time left."""
        step, monotonic = self.step, self.step.broker.monotonic
        left = max(one.ends - monotonic(), 0.001)
        try:
            newer = yield from step.issue_once(
                one.scope,
                Given(replaces=one.lease_id),
                timeout=min(step.broker.timeout, left),
                request_id=one.request_id,
            )
        except StepcredError as error:
            log.info("no successor for %s yet, or none at all: %s", one.scope, error)
            step.keeping.failed(one, error, now=monotonic())
            return
        now = step.keeping.of(one.scope)
        if now is None or now.credential is not newer:  # nobody wants it any more
            try:
                yield from self._take_back([newer.lease.lease_id], wait=0.0)
            except StepcredError as error:
                log.info("a successor for %s came too late and was not taken back: %s", one.scope, error)

    def _take_back(self, lease_ids: Iterable[str], *, wait: float) -> Flow[None]:
        for lease_id in lease_ids:
            if lease_id in self.step.held:
                yield from self.step.revoke(lease_id, wait=wait)
