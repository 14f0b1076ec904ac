"""What the sidecar can say at any moment, to readers and to probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from stepcred._credentials import AwsSession
from stepcred._errors import StepcredError
from stepcred._outlets import Unusable
from stepcred.cli._sidecar import _aws
from stepcred.cli._sidecar._held import Held
from stepcred.cli._sidecar._told import STARTING, Told, told


@dataclass(kw_only=True, slots=True)
class State:
    """`over` once the step is: its readers are told why for as long as we live. `broken`: by file or scope."""

    aws: Sequence[str]  # scopes that are served
    held: Held | None = None  # while the step is open
    ready: bool = False  # everything has been minted and written once
    over: Told | None = None
    broken: dict[str, Told] = field(default_factory=dict)

    @property
    def trouble(self) -> Told | None:
        """Why a probe should say no."""
        if self.over is not None:
            return self.over
        if not self.ready:
            return STARTING
        return next(iter(self.broken.values()), None)

    async def session(self, scope: str) -> tuple[AwsSession, datetime | None] | Told:
        """The one that everybody gets, and when to ask again; or why there is none."""
        if scope not in self.aws:
            return Told(status=404, code="SCOPE_NOT_SERVED", message="this sidecar was not started with that --aws")
        if self.over is not None or self.held is None:
            return self.over or STARTING
        try:
            session = _aws.session_of(await self.held.credential(scope))
        except StepcredError as error:
            return self.over or told(error)
        except Unusable as problem:
            return Told(status=404, code="SCOPE_NOT_SERVED", message=str(problem))
        return session, self.held.fresh_until(session)
