"""A `never` that forbids nothing: it looks like a guard, and guards nothing."""

from __future__ import annotations

from collections.abc import Iterator

from broker.policy.language.never import forbids
from broker.policy.lint.finding import Finding, Level, Rule, at
from broker.policy.lint.subject import Subject
from broker.policy.problems import show

NO_AGENT = Rule(
    id="never-without-agents",
    level=Level.WARNING,
    title="A never whose agents no workload can have",
    help="Mend the pattern: no certificate that fits it fits any workload, so nothing is forbidden to anybody. * is one "
    "segment, so the number of segments must be that of the workload's id.",
)
NO_SCOPE = Rule(
    id="never-without-scopes",
    level=Level.NOTE,
    title="A never that no scope falls under",
    help="Right if it guards against what may come; else mend its tier or scopes.",
)

RULES = (NO_AGENT, NO_SCOPE)


def check(subject: Subject) -> Iterator[Finding]:
    """Every rule of this module."""
    for never in subject.map.nevers.values():
        reached = (one.pattern.overlaps(never.agents, _anything) for one in subject.map.workloads.values())
        if not any(reached):
            message = (
                f"never {show(never.name)} forbids nothing: no workload has certificates such as {never.agents.text}"
            )
            yield at(never.rule, NO_AGENT, message)
        if not any(forbids(never, scope) for scope in subject.map.scopes.values()):
            yield at(never.rule, NO_SCOPE, f"never {show(never.name)} forbids nothing: there is no such scope")


def _anything(_capture: str, _value: str) -> bool:
    return True
