"""What is to be read from a step, the same for both clients."""

from __future__ import annotations

from datetime import datetime

from stepcred._core import StepCore
from stepcred._models import LeaseOutcome, ScopeVerdict


class StepView:
    """Attributes of a step; none of them does I/O."""

    def __init__(self, core: StepCore) -> None:
        self._core = core

    @property
    def alive(self) -> bool:
        """Open as far as we know: begun, and ended neither by us nor, by the last heartbeat, by the broker."""
        return self._core.alive

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
