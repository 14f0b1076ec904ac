"""May this launcher open this step for this workload, now? Pure and total.

What a launcher says of a step is *proven* as long as today's map lets it say so: asked when the step is opened, and
again with every decision about the step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from broker.model import RuleRef
from broker.policy.patterns import BINDING, Pattern, PatternIndex
from broker.policy.rules import Match
from broker.policy.windows import Phase, When


@dataclass(frozen=True, kw_only=True, slots=True)
class Launcher:
    """A scheduler: whom it opens steps for, and of which workflows and definitions."""

    name: str
    pattern: Pattern
    owners: tuple[str, ...]
    workloads: frozenset[str]
    workflows: frozenset[str] | None  # None = any
    digests: frozenset[str] | None  # None = any
    when: When
    rule: RuleRef


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """One question."""

    launcher: str  # SPIFFE ID
    agent: str  # SPIFFE ID of the workload that the step is opened for
    workflow: str
    run: str
    step: str
    definition_digest: str
    now: datetime


class Launchers:
    """Those of one map."""

    def __init__(self, launchers: Iterable[Launcher]) -> None:
        self.all = tuple(launchers)
        self._patterns: PatternIndex[Launcher] = PatternIndex()
        for launcher in self.all:
            self._patterns.add(launcher.pattern, launcher)

    def of(self, spiffe_id: str) -> tuple[Launcher, ...]:
        """Those that this certificate is."""
        return tuple(launcher for launcher, _ in self._patterns.match(spiffe_id))

    def owners_of(self, spiffe_id: str) -> frozenset[str]:
        """Of every launcher that this certificate is."""
        return frozenset(owner for launcher, _ in self._patterns.match(spiffe_id) for owner in launcher.owners)

    def allows(self, asked: Launch, matches: Iterable[Match]) -> RuleRef | None:
        """The first launcher rule that allows it; `matches`: the workloads that the agent fits.

        What the launcher's own certificate captures as workflow, run or step binds it, too. An agent that fits a workload
        which is not the launcher's is not: what is proven would be so for that workload's grants as well.
        """
        names = {match.workload.name for match in matches}
        if not names:
            return None
        found = sorted(self._patterns.match(asked.launcher), key=lambda pair: pair[0].name)
        if any(
            captures.get(name, getattr(asked, name)) != getattr(asked, name)
            for _, captures in found
            for name in BINDING
        ):
            return None
        for launcher, _ in found:
            if (
                names <= launcher.workloads
                and (launcher.workflows is None or asked.workflow in launcher.workflows)
                and (launcher.digests is None or asked.definition_digest in launcher.digests)
                and launcher.when.look(asked.now)[0] is Phase.OPEN
            ):
                return launcher.rule
        return None
