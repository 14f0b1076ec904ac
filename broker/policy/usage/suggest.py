"""Least privilege from what was really used. Every suggestion only narrows, and keeps what was used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias

from broker.model import NAME, JsonValue
from broker.policy.durations import format_duration
from broker.policy.rules import Grant, Scope
from broker.policy.usage.measure import GrantUse, Spans, Usage
from broker.policy.usage.rivals import Rivals
from broker.policy.usage.suggestion import Suggestion

MIN_SAMPLES = 100  # of a p99: below, it is just the longest one
MARGIN = 2  # times p99
FAR_ABOVE = 2  # a span is suggested when it is at most this part of today's
FEW_WORKFLOWS = 5  # that may take the place of "*"
FEWEST_ATTEMPTS = 2  # one more try is what attempts are for
SHORT = timedelta(days=30)  # a journal that has not seen a month's end
_ROUND = [timedelta(seconds=s) for s in (60, 90)]
_ROUND += [timedelta(minutes=m) for m in (2, 3, 5, 10, 15, 20, 30, 45, 60, 90)]
_ROUND += [timedelta(hours=h) for h in (2, 3, 4, 6, 8, 12, 18, 24)]
_ROUND += [timedelta(days=d) for d in (2, 3, 5, 7, 14, 30)]


_Over: TypeAlias = Callable[[str, JsonValue, str], Suggestion]  # key, value, evidence


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """Everything that a journal says of a map's rights."""

    usage: Usage
    suggestions: tuple[Suggestion, ...]
    kept: tuple[str, ...] = field(default=())  # what would be narrowed, and why it is not
    untaken: tuple[str, ...] = field(default=())  # scopes that steps name and never ask for


def suggest(usage: Usage) -> Advice:
    """In file order, grants first. Pure."""
    rivals = Rivals(usage.map, _gone(usage))
    found: list[Suggestion] = []
    kept: list[str] = []
    untaken: list[str] = []
    for name, grant in usage.map.grants.items():
        use = usage.of(name)
        for suggestion in _of_grant(usage, grant, use):
            if rivals.safe(grant, suggestion):
                found.append(suggestion)
            else:
                kept.append(f"{grant.rule}: {'.'.join(suggestion.path)} stays: another grant, laxer, overlaps with it")
        untaken += [
            f"{grant.rule}: {use.named[scope]} steps named scope {scope} at their beginning, and none asked for it"
            for scope in grant.scopes
            if use.named[scope] and not use.asked[scope]
        ]
    for scope in usage.map.scopes.values():
        found += _ttl(scope, usage.lives.get(scope.name) or Spans())
    return Advice(usage=usage, suggestions=tuple(found), kept=tuple(kept), untaken=tuple(untaken))


def _gone(usage: Usage) -> set[str]:
    """Grants that go as a whole: they take nobody's place, and make room for the next to go."""
    unused = {name: grant for name, grant in usage.map.grants.items() if not usage.of(name).requests}
    gone: set[str] = set()
    while True:
        rivals = Rivals(usage.map, gone)
        more = {
            name
            for name, grant in unused.items()
            if name not in gone and all(rivals.safe(grant, one) for one in _of_grant(usage, grant, GrantUse()))
        }
        if not more:
            return gone
        gone |= more


def _of_grant(usage: Usage, grant: Grant, use: GrantUse) -> Iterator[Suggestion]:
    if not use.requests:
        yield Suggestion(
            rule=grant.rule, path=("grants", grant.name), value=None, evidence=f"never used in {usage.period}"
        )
        return

    def over(key: str, value: JsonValue, evidence: str) -> Suggestion:
        return Suggestion(rule=grant.rule, path=("grants", grant.name, key), value=value, evidence=evidence)

    requests = f"{use.requests} requests in {usage.period}"
    if idle := [name for name in grant.scopes if not use.used(name)]:
        left = [name for name in grant.scopes if use.used(name)]
        yield over("scopes", left, f"never used: {_listed(idle)}; {requests}")
    if idle := [name for name in grant.workloads if not use.workloads[name]]:
        left = [name for name in grant.workloads if use.workloads[name]]
        yield over("workloads", left, f"never asked: {_listed(idle)}; {requests}")
    yield from _workflows(grant, use, over, requests)
    yield from _attempts(grant, use, over)
    longest = use.steps.longest
    if (span := _narrower(use.steps, grant.max_step, at_least=longest)) is not None:
        yield over("max_step", format_duration(span), _spans("steps lasted", use.steps))


def _workflows(grant: Grant, use: GrantUse, over: _Over, requests: str) -> Iterator[Suggestion]:
    seen = sorted(use.workflows)
    if use.many_workflows or not all(NAME.fullmatch(name) for name in seen):
        return
    if grant.workflows is None and len(seen) <= FEW_WORKFLOWS:
        told = ", ".join(f"{name} {use.workflows[name]}x" for name in seen)
        yield over("workflows", seen, f"only these used it: {told}; {requests}")
    elif grant.workflows is not None and (idle := sorted(grant.workflows - set(seen))):
        yield over("workflows", seen, f"never seen: {_listed(idle)}; {requests}")


def _attempts(grant: Grant, use: GrantUse, over: _Over) -> Iterator[Suggestion]:
    if use.attempts_told < max(MIN_SAMPLES, use.requests):
        return
    wanted = max(use.attempts, FEWEST_ATTEMPTS)
    if grant.attempts is None or grant.attempts >= FAR_ABOVE * wanted:
        yield over("attempts", wanted, f"never more than attempt {use.attempts} in {use.requests} requests")


def _ttl(scope: Scope, lives: Spans) -> Iterator[Suggestion]:
    span = _narrower(lives, scope.ttl)
    if span is not None:
        path = ("scopes", scope.name, "ttl")
        evidence = _spans("credentials were kept", lives)
        yield Suggestion(rule=scope.rule, path=path, value=format_duration(span), evidence=evidence)


def _narrower(spans: Spans, today: timedelta, *, at_least: timedelta = timedelta(0)) -> timedelta | None:
    """The next round span of twice the p99, when that is far below today's and there are enough samples."""
    if len(spans) < MIN_SAMPLES:
        return None
    wanted = max(spans.percentile(99) * MARGIN, at_least)
    span = next((span for span in _ROUND if span >= wanted), None)
    return span if span is not None and span * FAR_ABOVE <= today else None


def _spans(what: str, spans: Spans) -> str:
    p50, p99, longest = (format_duration(span) for span in (spans.percentile(50), spans.percentile(99), spans.longest))
    return f"{what} p50 {p50}, p99 {p99}, longest {longest} ({len(spans)} samples)"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    shown = 20
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
