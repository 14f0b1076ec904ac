"""Waiting until operators have approved. Nothing is minted or spent meanwhile, and no call is kept open."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TypeAlias

from stepcred._errors import (
    AccessDenied,
    BrokerUnavailable,
    DeadlineExceeded,
    NeedsApproval,
    Refused,
    Verdict,
)
from stepcred._flow import Flow, Pause
from stepcred._models import Access, ScopeVerdict
from stepcred._refusals import is_final, pause_after

# Called with what is waited for: at the start, and whenever it has changed.
Tell: TypeAlias = Callable[[NeedsApproval], None]


class Waiting:
    """What is waited for, and whom to tell of it."""

    def __init__(self, waiting: Iterable[NeedsApproval], tell: Tell | None) -> None:
        self._pending = {one.scope: one for one in waiting}
        self._tell = tell or (lambda _: None)

    @property
    def scopes(self) -> list[str]:
        return list(self._pending)

    def begin(self) -> None:
        """Raises NeedsApproval when nothing was asked of anybody."""
        for one in self._pending.values():
            if not one.approval_id:
                raise one.again(None)
            self._tell(one)

    def heard(self, verdicts: Iterable[ScopeVerdict]) -> bool:
        """All granted? Raises Refused when there is nothing left to wait for."""
        granted = True
        for verdict in verdicts:
            if verdict.access is Access.GRANTED:
                continue
            granted, before = False, self._pending[verdict.scope]
            self._pending[verdict.scope] = now = _as_it_stands(before, verdict)
            if now.metadata != before.metadata:
                self._tell(now)
        return granted

    def in_vain(self) -> NeedsApproval:
        """What to raise at the deadline."""
        return next(iter(self._pending.values())).again(None)


def wait(
    check: Callable[[Sequence[str]], Flow[tuple[ScopeVerdict, ...]]],
    waiting: Waiting,
    *,
    deadline: float,
    monotonic: Callable[[], float],
    uniform: Callable[[float, float], float],
    waits: int = 1,
) -> Flow[None]:
    """Pause, ask, pause: until all of it is granted at once. `deadline`: on `monotonic`. `waits`: how many this is.

    Raises NeedsApproval at the deadline, and at once what leaves nothing to wait for: what the scope map refuses by
    now, and an approval that was denied, has expired or is no longer for the same thing.
    """
    waiting.begin()
    asked = 0.0  # seconds that the broker wants us to wait
    for count in itertools.count(waits):  # what was granted and then not given is asked for less and less often
        left = deadline - monotonic()
        pause = max(min(pause_after(count) * uniform(0.8, 1.2), left), asked)
        if left <= 0 or pause > left:
            raise waiting.in_vain()
        yield Pause(pause)
        try:
            verdicts = yield from check(waiting.scopes)
        except (Refused, BrokerUnavailable, DeadlineExceeded) as error:
            if isinstance(error, Refused) and is_final(error):
                raise
            asked = getattr(error, "retry_after", None) or 0.0
            continue
        asked = 0.0
        if waiting.heard(verdicts):
            return


def _as_it_stands(before: NeedsApproval, verdict: ScopeVerdict) -> NeedsApproval:
    """Raises AccessDenied when there is nothing left to wait for."""
    if verdict.access is not Access.NEEDS_APPROVAL:
        told = {"rule": verdict.rule, "smallest_fix": verdict.smallest_fix}
        raise AccessDenied(
            f"{verdict.scope} is refused by now",
            reason=verdict.reason,
            reference_id=verdict.reference_id,
            metadata={name: value for name, value in told.items() if value},
            scope=verdict.scope,
        )
    if not verdict.approval_id:
        raise _over(before)
    now = before.again(None)
    expires = verdict.approval_expires_at
    now.metadata |= {
        "approval_id": verdict.approval_id,
        "approvals_needed": str(verdict.approvals_needed),
        "approvals_given": str(verdict.approvals_given),
        "approval_expires_at": expires.isoformat() if expires else "",
    }
    return now


def _over(before: NeedsApproval) -> AccessDenied:
    """The broker knows of no open request any more: when its time is over nobody decided it, else somebody did."""
    expires = before.approval_expires_at
    if expires is not None and expires <= datetime.now(UTC):
        return NeedsApproval(
            f"approval {before.approval_id} was not given in time",
            reason="APPROVAL_EXPIRED",
            verdict=Verdict.NEEDS_APPROVAL,
            metadata=before.metadata,
            scope=before.scope,
        )
    return AccessDenied(
        f"approval {before.approval_id} was denied, or what it was for is no longer the same",
        reason="APPROVAL_DECIDED",
        metadata=before.metadata,
        scope=before.scope,
    )
