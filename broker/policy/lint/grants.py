"""Grants that change nothing: covered by another one, refused by a deny, or over.

Several grants that match add up to what each allows, under the strictest `max_step`, `concurrent`, `bind` and
`approvals` of them. So a grant inside another one either adds nothing at all, or all that it does is to bound the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from broker.model import Bind
from broker.policy.decision import Concurrent
from broker.policy.durations import format_duration
from broker.policy.launch import Launcher
from broker.policy.lint.cover import deny_covers, grant_covers
from broker.policy.lint.finding import Finding, Level, Rule, at
from broker.policy.lint.subject import Subject
from broker.policy.problems import show
from broker.policy.rules import Deny, Grant

DUPLICATE = Rule(
    id="duplicate-grant",
    level=Level.WARNING,
    title="The same grant twice",
    help="Remove one of them: whoever takes a right away from one will believe it gone.",
)
SHADOWED = Rule(
    id="shadowed-grant",
    level=Level.WARNING,
    title="A grant that adds nothing to another one",
    help="Remove it, or narrow the one that covers it: taking this grant away would take nothing away.",
)
BOUNDING = Rule(
    id="bounding-grant",
    level=Level.NOTE,
    title="A grant that only bounds another one",
    help="Where several grants match, the strictest max_step, concurrent, bind and approvals hold. If this grant is meant "
    "to give more freedom than the other, it does not; if it is meant to bound it, say so in its description.",
)
DENIED = Rule(
    id="denied-grant",
    level=Level.WARNING,
    title="A grant that a deny refuses as a whole",
    help="Deny wins, so the grant never allows anything. Remove the grant, or narrow the deny.",
)
OVER = Rule(
    id="is-over",
    level=Level.WARNING,
    title="A rule whose until has passed",
    help="Remove it: it has no effect any more, and one edit of its date would bring it back.",
)

RULES = (DUPLICATE, SHADOWED, BOUNDING, DENIED, OVER)


def check(subject: Subject) -> Iterator[Finding]:
    """Every rule of this module."""
    for grant in subject.map.grants.values():
        yield from _covered(subject, grant)
        deny = next((deny for deny in subject.map.denies.values() if deny_covers(deny, grant)), None)
        if deny is not None:
            yield at(
                subject.of_grant(grant),
                DENIED,
                f"grant {grant.rule.name} never allows anything: deny {deny.rule} refuses all of it",
            )
    yield from _over(subject)


def _covered(subject: Subject, grant: Grant) -> Iterator[Finding]:
    """By one other grant; the first that makes it needless, else the first that it bounds."""
    larger = [other for other in _rivals(subject, grant) if other is not grant and grant_covers(other, grant)]
    for other in larger:
        if not _needless(grant, other):
            continue
        if not _needless(other, grant):
            yield at(
                subject.of_grant(grant),
                SHADOWED,
                f"grant {grant.rule.name} adds nothing: grant {other.rule} allows all of it",
            )
            return
        if grant.position > other.position:  # of two, the later one is the copy
            yield at(
                subject.of_grant(grant), DUPLICATE, f"grant {grant.rule.name} allows the same as grant {other.rule}"
            )
            return
    for other in larger:
        bounds = _changes(grant, other)
        if bounds and not _needless(other, grant):
            message = (
                f"grant {grant.rule.name} only bounds grant {other.rule}, which allows all of it: {', '.join(bounds)}"
            )
            yield at(subject.of_grant(grant), BOUNDING, message)
            return


def _needless(grant: Grant, other: Grant) -> bool:
    """Nothing changes when `grant` goes, as long as `other` is there."""
    return grant_covers(other, grant) and not _changes(grant, other)


def _rivals(subject: Subject, grant: Grant) -> list[Grant]:
    """Whatever covers the grant also gives its first scope to its first workload in its first workflow."""
    workflow = min(grant.workflows) if grant.workflows is not None else ""  # "": nobody's, so only those for any
    return subject.map.index.grants_for(grant.scopes[0], grant.workloads[0], workflow)


def _changes(grant: Grant, other: Grant) -> list[str]:
    """What changes for a request that `other` allows once `grant` allows it, too."""
    found = []
    if grant.max_step < other.max_step:
        found.append(f"max_step {format_duration(grant.max_step)}")
    if grant.concurrent is Concurrent.REFUSE and other.concurrent is not Concurrent.REFUSE:
        found.append("concurrent refuse")
    if grant.bind is Bind.KEY and other.bind is not Bind.KEY:
        found.append("bind key")
    if grant.approvals > other.approvals:
        found.append(f"approvals {grant.approvals}")
    return found


def _over(subject: Subject) -> Iterator[Finding]:
    found = subject.map
    sections: dict[str, Iterable[Grant | Deny | Launcher]] = {
        "grant": found.grants.values(),
        "deny": found.denies.values(),
        "launcher": found.launchers.all,
    }
    for what, rules in sections.items():
        for one in rules:
            if one.when.until is not None and one.when.until <= subject.now:
                yield at(one.rule, OVER, f"{what} {show(one.name)} ended at {one.when.until:%Y-%m-%dT%H:%MZ}")
