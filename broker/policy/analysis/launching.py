"""Who may open steps for whom: two maps compared entry by entry.

What a launcher says is proven, so a new launcher makes real what grants allow only when proven. Compared by what the
entries say: two entries that together are as one of the other map are told as a change, never the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator

from broker.model import Tier
from broker.policy.analysis.changes import Change, Kind
from broker.policy.analysis.seen import listed, time_words
from broker.policy.language.parts import TIER_ORDER
from broker.policy.launch import Launcher
from broker.policy.patterns import BINDING, Pattern
from broker.policy.scope_map import ScopeMap
from broker.policy.windows import When


def launcher_changes(old: ScopeMap, new: ScopeMap) -> Iterator[Change]:
    """What launchers may do in one map only."""
    for kind, mine, theirs in ((Kind.GAINED, new, old), (Kind.LOST, old, new)):
        for launcher in mine.launchers.all:
            if not any(covers(theirs, other, mine, launcher) for other in theirs.launchers.all):
                yield _change(kind, launcher, mine)


def owner_changes(old: ScopeMap, new: ScopeMap) -> Iterator[Change]:
    """Owners of launchers, which approve nothing of what it opens: with fewer of them, more people may."""
    before, after = launcher_owners(old), launcher_owners(new)
    for shape in before.keys() & after.keys():
        was, (is_now, launcher) = before[shape][0], after[shape]
        if was != is_now:
            wider = not was <= is_now
            highest = _highest(launcher, new)
            yield Change(
                kind=Kind.LOOSENED if wider else Kind.TIGHTENED,
                rule=launcher.rule,
                attribute=f"owners of launcher {launcher.name}",
                before=listed({*was}) or "none",
                after=listed({*is_now}) or "none",
                tiers=(highest, highest),
            )


def launcher_owners(scope_map: ScopeMap) -> dict[object, tuple[frozenset[str], Launcher]]:
    """By the certificates, whatever the entries are called: who owns them, and one of the entries."""
    found: dict[object, tuple[frozenset[str], Launcher]] = {}
    for launcher in scope_map.launchers.all:
        shape = _plain(launcher.pattern)
        others, first = found.get(shape, (frozenset(), launcher))
        found[shape] = (others | {*launcher.owners}, first)
    return found


def covers(theirs: ScopeMap, other: Launcher, mine: ScopeMap, launcher: Launcher) -> bool:
    """May `other` do at least what `launcher` may?"""
    return (
        _shape(other.pattern) == _shape(launcher.pattern)
        and _binders(theirs, other) <= _binders(mine, launcher)
        and launcher.workloads <= other.workloads
        and all(_same_workload(theirs, mine, name) for name in launcher.workloads)
        and _within(launcher.workflows, other.workflows)
        and _within(launcher.digests, other.digests)
        and _lasts(launcher.when, other.when)
    )


def _change(kind: Kind, launcher: Launcher, own: ScopeMap) -> Change:
    highest = _highest(launcher, own)
    conditions = [f"of definition {listed({*launcher.digests})}"] if launcher.digests is not None else []
    return Change(
        kind=kind,
        rule=launcher.rule,
        workload=listed({*launcher.workloads}),
        pattern=launcher.pattern.text,
        workflows=None if launcher.workflows is None else tuple(sorted(launcher.workflows)),
        attribute="launch",
        conditions=(*conditions, *time_words(launcher.when)),
        tiers=(None, highest) if kind is Kind.GAINED else (highest, None),
    )


def _highest(launcher: Launcher, own: ScopeMap) -> Tier | None:
    """Tier of what those that it opens steps for may have."""
    scopes = {scope for name in launcher.workloads for scope in own.index.scopes_of(name)}
    return max((own.scopes[scope].tier for scope in scopes), key=TIER_ORDER.__getitem__, default=None)


def _shape(pattern: Pattern) -> object:
    """Names of captures count only where they bind what may be said."""
    named = (one if isinstance(one, str) else (one.name if one.name in BINDING else "",) for one in pattern.segments)
    return pattern.trust_domain, tuple(named)


def _binders(scope_map: ScopeMap, launcher: Launcher) -> frozenset[object]:
    """Entries that bind the same certificates, too."""
    return frozenset(
        _shape(other.pattern)
        for other in scope_map.launchers.all
        if not {*other.pattern.captures}.isdisjoint(BINDING)
        and other.pattern.overlaps(launcher.pattern, lambda _name, _text: True)
    )


def _same_workload(theirs: ScopeMap, mine: ScopeMap, name: str) -> bool:
    found = theirs.workloads.get(name)
    return found is not None and _plain(found.pattern) == _plain(mine.workloads[name].pattern)


def _plain(pattern: Pattern) -> object:
    return pattern.trust_domain, tuple(one if isinstance(one, str) else None for one in pattern.segments)


def _within(part: frozenset[str] | None, whole: frozenset[str] | None) -> bool:
    return whole is None or (part is not None and part <= whole)


def _lasts(part: When, whole: When) -> bool:
    if whole.until is not None and (part.until is None or part.until > whole.until):
        return False
    return whole.daily is None or whole.daily == part.daily
