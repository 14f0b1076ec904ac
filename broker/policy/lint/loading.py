"""What keeps a map from loading. The loader's own words, under a rule each where a pipeline may want to tell them apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from broker.policy.lint.finding import Finding, Level, Rule
from broker.policy.problems import Problem

_LAST_GOOD = "The broker keeps its last good map, and alarms, until this is mended."

DOES_NOT_LOAD = Rule(
    id="does-not-load",
    level=Level.ERROR,
    title="The map does not load",
    help=f"Mend what the message says; docs/scope-map.md describes the language. {_LAST_GOOD}",
)
UNKNOWN_KEY = Rule(
    id="unknown-key",
    level=Level.ERROR,
    title="A key that the language does not have",
    help=f"A misspelt condition would be no condition at all, so nothing unknown is kept. {_LAST_GOOD}",
)
UNKNOWN_REFERENCE = Rule(
    id="unknown-reference",
    level=Level.ERROR,
    title="A name that nothing has",
    help=f"Declare the workload, scope or residency under this name, or mend its spelling. {_LAST_GOOD}",
)
NEVER_BROKEN = Rule(
    id="never-broken",
    level=Level.ERROR,
    title="A grant could give what a never forbids",
    help=f"Narrow the grant's workloads, workflows or scopes; times and denies do not count here. {_LAST_GOOD}",
)
OUTSIDE_RESIDENCY = Rule(
    id="outside-residency",
    level=Level.ERROR,
    title="A scope may be used where its data does not live",
    help=f"Name in the provider's block only regions of the scope's residency. {_LAST_GOOD}",
)

RULES = (DOES_NOT_LOAD, UNKNOWN_KEY, UNKNOWN_REFERENCE, NEVER_BROKEN, OUTSIDE_RESIDENCY)

_BY_WORDS = (
    (re.compile(r"unknown key"), UNKNOWN_KEY),
    (re.compile(r"no (workload|scope|residency) is named "), UNKNOWN_REFERENCE),
    (re.compile(r"never '.*' is broken by grant |breaks never "), NEVER_BROKEN),
    (re.compile(r"region \S+ is not in |its data lives in "), OUTSIDE_RESIDENCY),
)


def from_problems(problems: Iterable[Problem]) -> Iterator[Finding]:
    """The loader's problems as findings."""
    for one in problems:
        rule = next((rule for words, rule in _BY_WORDS if words.match(one.message)), DOES_NOT_LOAD)
        yield Finding(rule=rule, file=one.file, line=one.line, column=one.column, message=one.message)
