"""What is to be read from a step, and done with its credentials, the same for both clients."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Self

from stepcred._core import StepCore
from stepcred._credentials import Credential
from stepcred._current import LEASES
from stepcred._errors import Refused, StepcredError
from stepcred._keeper import Keeper
from stepcred._models import LeaseOutcome, ScopeVerdict
from stepcred._settings import HANDLE


class StepView:
    """Attributes of a step; nothing here does I/O."""

    def __init__(self, core: StepCore) -> None:
        self._core = core
        self._keeping = Keeper(step=core)
        self.outer: Self | None = None
        self.left = False
        self._process = os.getpid()

    @property
    def _forked(self) -> bool:
        """In a child: the step, its heartbeats and its end are its parent's."""
        return os.getpid() != self._process

    def _must_be_ours(self) -> None:
        """Before any lock is taken: one that another thread held at a fork is never released in the child."""
        if self._forked:
            raise StepcredError(
                "this step belongs to the process that opened it; give a child step.env(), or connect() there"
            )

    def _must_be_new(self) -> None:
        """A second time it would open an attempt that nobody speaks for."""
        if self._core.begun:
            raise StepcredError("this step has been entered already; broker.step(…) makes another one")

    def _have(self, scope: str) -> None:
        """Whoever asks outside of a `lease` block has it until the step ends; inside, until the block does."""
        self._must_be_ours()
        if not (LEASES.inside(self, scope) and self._core.keeping.used(scope)):
            self._core.keeping.pin(scope)

    def _lend(self, scope: str, credential: Credential) -> bool:
        """Whoever gets a copy of it needs it to its end. False: there is a newer one by now."""
        return self._core.keeping.lend(scope, credential.lease.lease_id)

    def _enter_lease(self, scope: str) -> None:
        self._must_be_ours()
        self._core.keeping.enter(scope)
        LEASES.enter(self, scope)

    @property
    def alive(self) -> bool:
        """Open as far as we know: begun, and ended neither by us nor, by the last heartbeat, by the broker."""
        return self._core.alive

    @property
    def handle(self) -> str:
        """What `join` takes, with the same certificate; "" before the step is open."""
        return self._core.handle

    @property
    def ended_by_broker(self) -> bool:
        """Not by us."""
        return self._core.ended_by_broker

    @property
    def end_told(self) -> Refused | None:
        """How the broker told us that it has ended the step; `metadata["ended_by"]` says by what. None: it has not."""
        return self._core.end_told

    def fresh_until(self, scope: str) -> datetime | None:
        """When to ask for the kept credential of this scope again, at the latest; None: there is none, or no end.

        Its successor, once there, ends it before its own time.
        """
        seconds = self._keeping.fresh(scope)
        return datetime.now(UTC) + timedelta(seconds=seconds) if math.isfinite(seconds) else None

    def kept(self, scope: str) -> Credential | None:
        """What is kept of this scope by now; None once the step has ended. Nothing is asked for.

        Raises why it can be kept no longer: what its successor was refused, or Refused with LEASE_ENDED.
        """
        return self._keeping.lasting(scope)

    @property
    def attempt(self) -> int:
        """1 for the first time that this step is opened; 0 for one that was joined: its launcher knows."""
        return self._core.attempt

    @property
    def deadline(self) -> datetime | None:
        """When the broker ends the step at the latest."""
        return self._core.deadline

    @property
    def verdicts(self) -> tuple[ScopeVerdict, ...]:
        """What the scope map said of each named scope when the step was opened; of a joined one, none."""
        return self._core.verdicts

    @property
    def outcomes(self) -> tuple[LeaseOutcome, ...]:
        """After the end: what became of each lease."""
        return self._core.outcomes

    @property
    def all_proven(self) -> bool:
        """After the end: the broker has evidence for every lease."""
        return self._core.all_proven

    def summary(self) -> str:
        """After the end, one line for people: "2 credentials dead, proven in 41 ms"."""
        return self._core.summary()

    def __repr__(self) -> str:
        name = self._core.name
        what = f"{name.workflow}/{name.run}/{name.step} attempt {self.attempt}" if name else "of a launcher"
        return f"<{type(self).__name__} {what}, {'open' if self.alive else 'not open'}>"


def environment(credentials: Iterable[Credential], base: Mapping[str, str] | None) -> dict[str, str]:
    """Raises StepcredError where `_outlets` does."""
    from stepcred._outlets import Unusable, merged_environment, rivals

    held = list(credentials)
    try:
        ours = merged_environment(held)
    except Unusable as problem:
        raise StepcredError(str(problem)) from None
    # Without our step's handle: a stepcred in the child would join it, and end it when it is done.
    unwanted = rivals(held) | {HANDLE}
    inherited = os.environ if base is None else base
    return {name: value for name, value in inherited.items() if name not in unwanted} | ours


def dsn_of(credential: Credential, scheme: str) -> str:
    """Raises StepcredError where `_outlets` does."""
    from stepcred._outlets import Unusable, dsn

    try:
        return dsn(credential, scheme)
    except Unusable as problem:
        raise StepcredError(str(problem)) from None
