"""A map's own tests: those whose result depends on the day."""

from __future__ import annotations

from collections.abc import Iterator

from broker.policy.lint.finding import Finding, Level, Rule, at, listed
from broker.policy.lint.subject import Subject
from broker.policy.rules import ScopeTest

NO_TIME = Rule(
    id="test-without-time",
    level=Level.WARNING,
    title="A test whose answer changes with the clock",
    help='Say at: "2026-12-01T23:00Z" or the like; without it the test asks for the time of the run, and will fail, or '
    "pass for another reason, on another day.",
)

RULES = (NO_TIME,)


def check(subject: Subject) -> Iterator[Finding]:
    """Every rule of this module."""
    for test in subject.map.tests:
        timed = [] if test.at is not None else _timed(subject, test)
        if timed:
            message = f"{test.rule.name} says no at, and {listed(timed)} depends on the time"
            yield at(test.rule, NO_TIME, message)


def _timed(subject: Subject, test: ScopeTest) -> list[str]:
    """Grants and denies with conditions of time that could decide it."""
    index = subject.map.index
    matches = index.matches(test.agent)
    grants = [grant for match in matches for grant in index.grants_of(test.ask, match.workload.name)]
    if not grants:
        return []  # refused whatever the time
    rules = [(f"grant {grant.rule.name}", grant.when) for grant in grants]
    rules += [(f"deny {deny.rule.name}", deny.when) for deny in index.denies_of(test.ask, matches)]
    return list(dict.fromkeys(name for name, when in rules if when.until is not None or when.daily is not None))
