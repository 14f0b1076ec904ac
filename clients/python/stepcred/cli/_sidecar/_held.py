"""One step and what it keeps: any number of readers, one lease for each scope, one question at a time.

Both the sidecar and the keeper of `aws-credential-process` are this, with different ways in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from stepcred import aio
from stepcred._credentials import Credential
from stepcred._errors import NeedsApproval, Refused, StepcredError
from stepcred._models import Access, ScopeVerdict
from stepcred._refusals import pause_after

Tell = Callable[[NeedsApproval], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """The step to be opened, or joined by its handle; None is taken from the environment."""

    scopes: Sequence[str]
    workflow: str | None = None
    run: str | None = None
    step: str | None = None
    handle: str = field(default="", repr=False)
    wait_broker: timedelta | float | None = None  # for a broker that is not there yet; None: as the settings say
    approval_timeout: timedelta | None = None  # None: operators are not waited for


class Denied(StepcredError):
    """The step may not have some of its scopes; nothing was minted."""

    def __init__(self, verdicts: Sequence[ScopeVerdict]) -> None:
        super().__init__("; ".join(f"{one.scope}: refused [{one.reason}]" for one in verdicts))
        self.verdicts = verdicts


@dataclass(frozen=True, kw_only=True, slots=True)
class _Quiet:
    """What a scope was refused, told again without a question `until` (monotonic seconds)."""

    error: StepcredError
    until: float
    failures: int


class Held:
    """`open` it, and then `close` it, which ends the step with proof."""

    def __init__(self, wanted: Wanted, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.wanted = wanted
        self._monotonic = monotonic
        self._quiet: dict[str, _Quiet] = {}
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Raises StepcredError; Denied before anything is minted."""
        wanted = self.wanted
        try:
            broker = await self._stack.enter_async_context(aio.connect(wait_broker=wanted.wait_broker))
            if wanted.handle:
                self.step = broker.join(wanted.handle)
            else:
                self.step = broker.step(
                    workflow=wanted.workflow, run=wanted.run, step=wanted.step, scopes=wanted.scopes
                )
            await self._stack.enter_async_context(self.step)
            self.verdicts = await self._must_be_granted()
        except BaseException as error:
            await self._stack.__aexit__(type(error), error, error.__traceback__)
            raise

    async def close(self, *why: Any) -> None:
        """Raises StepcredError when the broker cannot be told; `why` are an exception's three parts, if one is under way."""
        await self._stack.__aexit__(*(why or (None, None, None)))

    async def _must_be_granted(self) -> tuple[ScopeVerdict, ...]:
        verdicts = await self.step.check(self.wanted.scopes) if self.wanted.handle else self.step.verdicts
        refused = [one for one in verdicts if one.access not in (Access.GRANTED, Access.NEEDS_APPROVAL)]
        if refused:
            raise Denied(refused)
        return verdicts

    async def approved(self, tell: Tell) -> None:
        """Wait for operators, as long as wanted. Raises NeedsApproval when that is not at all."""
        waiting: list[NeedsApproval] = []
        for verdict in self.verdicts:
            if verdict.access is Access.NEEDS_APPROVAL:
                try:
                    await self.step.credential(verdict.scope)  # this is what asks for the approval
                except NeedsApproval as needed:
                    waiting.append(needed)
        if not waiting:
            return
        if self.wanted.approval_timeout is None:
            raise waiting[0]
        await self.step.wait_for_approval(waiting, approval_timeout=self.wanted.approval_timeout, on_waiting=tell)

    async def credential(self, scope: str) -> Credential:
        """The live one. Raises StepcredError, and for as long as nothing can have changed from memory."""
        quiet = self._quiet.get(scope)
        if quiet is not None and self.step.alive and (left := quiet.until - self._monotonic()) > 0:
            raise _again(quiet.error, left)
        try:
            credential = await self.step.credential(scope)
        except StepcredError as error:
            self._heard(scope, error, quiet)
            raise
        self._quiet.pop(scope, None)
        return credential

    def _heard(self, scope: str, error: StepcredError, before: _Quiet | None) -> None:
        """Each question after an answer may be a charged attempt: readers that never tire must not spend the budget."""
        if self._quiet.get(scope) is not before:
            return  # many waited for the one answer
        failures = before.failures + 1 if before else 1
        asked = getattr(error, "retry_after", None) or 0.0
        until = self._monotonic() + max(pause_after(failures), asked)
        self._quiet[scope] = _Quiet(error=error, until=until, failures=failures)

    def fresh_until(self, credential: Credential) -> datetime | None:
        """When a reader shall have asked again, at the latest."""
        return self.step.fresh_until(credential.lease.scope) or credential.lease.expires_at


def _again(error: StepcredError, left: float) -> StepcredError:
    """For another reader to catch; `left` seconds until the question is put again."""
    if isinstance(error, Refused) and error.retry_after is None:
        return error.again(None)
    again = getattr(error, "again", None)
    return again(left) if again is not None else error
