"""What of a map was really used, and how: counts and spans per grant and scope."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from broker.model import JsonValue
from broker.policy.scope_map import ScopeMap
from broker.policy.usage.events import LeaseOver, Outcome, Period, Question, StepOver, Unusable
from broker.policy.usage.reading import Reader, Recent
from broker.policy.usage.replay import replay

MANY_WORKFLOWS = 1000  # names of one grant kept; beyond, there are simply many
_HOUR = 3600


class Spans:
    """Spans of time, counted by the second up to an hour and by the minute above, rounded up. Bounded memory."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, span: timedelta) -> None:
        """One more."""
        seconds = max(0, math.ceil(span.total_seconds()))
        self._counts[seconds if seconds <= _HOUR else math.ceil(seconds / 60) * 60] += 1

    def __len__(self) -> int:
        return self._counts.total()

    def percentile(self, percent: int) -> timedelta:
        """The nearest rank: so many percent are not longer. Zero when there are none."""
        rank, seen = math.ceil(len(self) * percent / 100), 0
        for seconds in sorted(self._counts):
            seen += self._counts[seconds]
            if seen >= rank:
                return timedelta(seconds=seconds)
        return timedelta(0)

    @property
    def longest(self) -> timedelta:
        """Zero when there are none."""
        return timedelta(seconds=max(self._counts, default=0))


@dataclass(kw_only=True, slots=True)
class GrantUse:
    """What one grant was the rule for."""

    asked: Counter[str] = field(default_factory=Counter)  # scope → credentials
    named: Counter[str] = field(default_factory=Counter)  # scope → steps that named it, and were granted it
    workloads: Counter[str] = field(default_factory=Counter)
    workflows: Counter[str] = field(default_factory=Counter)
    many_workflows: bool = False
    attempts: int = 0  # the highest that was needed
    attempts_told: int = 0  # questions whose record tells the attempt
    requests: int = 0
    steps: Spans = field(default_factory=Spans)

    def note(self, question: Question, workload: str) -> None:
        """One more request, allowed by it."""
        asked = question.request
        self.requests += 1
        (self.named if question.named else self.asked)[asked.scope] += 1
        self.workloads[workload] += 1
        if asked.workflow in self.workflows or len(self.workflows) < MANY_WORKFLOWS:
            self.workflows[asked.workflow] += 1
        else:
            self.many_workflows = True
        self.attempts = max(self.attempts, asked.attempt)
        self.attempts_told += "attempt" not in question.untold

    def used(self, scope: str) -> int:
        """Requests for this scope."""
        return self.asked[scope] + self.named[scope]


@dataclass(kw_only=True, slots=True)
class Usage:
    """Of one map, by one journal."""

    map: ScopeMap
    period: Period
    grants: dict[str, GrantUse] = field(default_factory=dict)
    lives: dict[str, Spans] = field(default_factory=dict)  # scope → how long its credentials were kept
    refused: int = 0  # requests that were allowed then, and that this map refuses
    unusable: Counter[str] = field(default_factory=Counter)

    def of(self, grant: str) -> GrantUse:
        """Nothing at all, when it was never used."""
        return self.grants.get(grant) or GrantUse()


def measure(
    scope_map: ScopeMap,
    records: Iterable[Mapping[str, JsonValue]],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Usage:
    """Ask this map again for everything that was allowed, and note which grant gives it."""
    reader = Reader(since=since, until=until)
    usage = Usage(map=scope_map, period=reader.period)
    steps: Recent[tuple[str, ...]] = Recent()  # step id → grants that it used
    for record in records:
        for event in reader.read(record):
            match event:
                case Question():
                    _note(usage, event, steps)
                case StepOver(own_end=True):
                    for name in steps.pop(event.step_id) or ():
                        usage.grants[name].steps.add(event.lasted)
                case LeaseOver(own_end=True):
                    usage.lives.setdefault(event.scope, Spans()).add(event.lived)
                case Unusable():
                    usage.unusable[event.why] += 1
                case _:
                    pass
    return usage


def _note(usage: Usage, question: Question, steps: Recent[tuple[str, ...]]) -> None:
    if question.outcome is Outcome.REFUSED:
        return
    answer = replay(usage.map, question)
    if answer is None or answer.outcome is Outcome.REFUSED or answer.rule is None:
        usage.refused += 1
        return
    name = answer.rule.name
    usage.grants.setdefault(name, GrantUse()).note(question, answer.workload)
    known = steps.get(question.step_id) or ()
    if question.step_id and name not in known:
        steps.put(question.step_id, (*known, name))
