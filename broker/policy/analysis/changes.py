"""What one map allows and another does not, and which bounds differ: exact, grouped by scope, workload and rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from itertools import groupby
from typing import TypeAlias

from broker.model import RuleRef, Tier
from broker.policy.analysis.bounds import Shift, shifts
from broker.policy.analysis.cells import MAX_QUESTIONS, Cell, Walker
from broker.policy.analysis.regions import changed_regions
from broker.policy.analysis.seen import Seen, listed, time_words
from broker.policy.decision import AccessRequest, Allowed, Denied
from broker.policy.language.parts import TIER_ORDER
from broker.policy.patterns import Capture
from broker.policy.rules import Grant
from broker.policy.scope_map import ScopeMap


class Kind(Enum):
    """What became of something. The first two let more be done."""

    GAINED = "gained"
    LOOSENED = "loosened"
    LOST = "lost"
    TIGHTENED = "tightened"
    NOTE = "note"  # of the map, not of what anybody gets

    @property
    def widens(self) -> bool:
        """Is more possible than before?"""
        return self in (Kind.GAINED, Kind.LOOSENED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One line of a plan."""

    kind: Kind
    rule: RuleRef  # responsible: of the new map, or where something is lost, of the old one
    scope: str = ""
    workload: str = ""
    pattern: str = ""
    workflows: tuple[str, ...] | None = None  # None = any
    but: tuple[str, ...] = ()  # of any workflow, these not
    attribute: str = ""  # which bound; "launch" where it is about who may open steps
    before: str = ""
    after: str = ""
    conditions: tuple[str, ...] = ()
    refused: str = ""  # why the other map denies it
    tiers: tuple[Tier | None, Tier | None] = (None, None)  # of the scope before and after; None = not declared
    witness: AccessRequest | None = None  # a question for which it is so


_Place: TypeAlias = tuple[str, tuple[str, ...]]  # scope, and the certificate


def _place(cell: Cell) -> _Place:
    """Where one segment of the certificate alone says the workflow, those of all workflows are one place."""
    parts = cell.request.agent.split("/")[2:]  # the trust domain, then the segments
    if all("workflow" in state.bound or not state.matches for state in cell.states):
        patterns = [match.workload.pattern for state in cell.states for match in state.matches]
        said = {n for pattern in patterns for n, one in enumerate(pattern.segments) if one == Capture("workflow")}
        if len(said) == 1:
            parts[said.pop() + 1] = ""
    return cell.request.scope, tuple(parts)


@dataclass(slots=True, kw_only=True)
class _Group:
    kind: Kind
    decision: Allowed
    grant: Grant
    seen: Seen
    other: Allowed | Denied  # what the other map says to the witness
    shift: Shift | None
    open: set[_Place] = field(default_factory=set)  # where it is so for a workflow that nothing mentions


@dataclass(slots=True, kw_only=True)
class Comparison:
    """Of two maps, cell by cell, where they may differ."""

    old: ScopeMap
    new: ScopeMap
    since: datetime | None  # None = for all time
    limit: int = MAX_QUESTIONS
    _prefix: str = ""
    _groups: dict[tuple[str, ...], _Group] = field(default_factory=dict)
    _asked: dict[_Place, set[str]] = field(default_factory=dict)  # workflows

    def changes(self) -> Iterator[Change]:
        """Everything that differs, by scope. Raises TooManyCombinations."""
        regions = changed_regions(self.old, self.new)
        if not regions:
            return
        walker = Walker((self.old, self.new), since=self.since, limit=self.limit)
        self._prefix = walker.fresh.prefix
        for scope, found in groupby(regions, key=lambda region: region[0]):
            self._groups, self._asked = {}, {}
            for _, region in found:
                for cell in walker.cells(scope, region):
                    self._compare(cell)
            for group in self._groups.values():
                yield self._change(group)

    def _compare(self, cell: Cell) -> None:
        before, after = cell.states
        old = self.old.decide(cell.request) if before.allows else None
        new = self.new.decide(cell.request) if after.allows else None
        self._asked.setdefault(_place(cell), set()).add(cell.request.workflow)
        if isinstance(old, Allowed) and isinstance(new, Allowed):
            owners = (_owners(self.old, old), _owners(self.new, new))
            for shift in shifts(old, new, owners):
                self._add(Kind.LOOSENED if shift.wider else Kind.TIGHTENED, cell, new, shift)
        elif isinstance(new, Allowed):
            self._add(Kind.GAINED, cell, new)
        elif isinstance(old, Allowed):
            self._add(Kind.LOST, cell, old)

    def _add(self, kind: Kind, cell: Cell, decision: Allowed, shift: Shift | None = None) -> None:
        lost = kind is Kind.LOST
        other = (self.new if lost else self.old).decide(cell.request)
        key: tuple[str, ...] = (kind.value, decision.scope, decision.rule.name, decision.workload)
        if isinstance(other, Denied):  # else a line would join the workflows of one with the attempts of another
            key += (other.reason.value,)
        if shift is not None:
            key += (shift.attribute, *((shift.before, shift.after) if shift.texts else ()))
        if key not in self._groups:
            grants = cell.states[0 if lost else 1].grants
            self._groups[key] = _Group(
                kind=kind,
                decision=decision,
                grant=min((grant for grant, _ in grants), key=lambda grant: grant.position),
                seen=Seen(prefix=self._prefix, witness=cell.request),
                other=other,
                shift=shift,
            )
        self._groups[key].seen.add(cell)
        if cell.request.workflow.startswith(self._prefix):
            self._groups[key].open.add(_place(cell))

    def _change(self, group: _Group) -> Change:
        decision, shift, seen = group.decision, group.shift, group.seen
        own = self.old if group.kind is Kind.LOST else self.new
        workload = own.workloads[decision.workload]
        everywhere = [self._asked[place] for place in group.open]
        rest = set[str].intersection(*everywhere) - seen.workflows if everywhere else set[str]()
        rule = own.scopes[decision.scope].rule if shift is not None and shift.of_scope else decision.rule
        return Change(
            kind=group.kind,
            rule=rule,
            scope=decision.scope,
            workload=workload.name,
            pattern=workload.pattern.text,
            workflows=seen.named,
            but=tuple(sorted(name for name in rest if not name.startswith(seen.prefix))),
            attribute=shift.attribute if shift else "",
            before=shift.before if shift else "",
            after=shift.after if shift else "",
            conditions=tuple(self._conditions(group)),
            refused=_refused(group.other),
            tiers=tiers_of(self.old, self.new, decision.scope),
            witness=seen.witness,
        )

    def _conditions(self, group: _Group) -> list[str]:
        words = group.seen.conditions(group.grant)
        other = (self.new if group.kind is Kind.LOST else self.old).grants.get(group.decision.rule.name)
        if other is None or time_words(other.when) == time_words(group.grant.when):
            return words
        is_or_was = "now" if group.kind is Kind.LOST else "before"
        return [*words, f"{is_or_was} {' '.join(time_words(other.when)) or 'at any time'}"]


def _owners(scope_map: ScopeMap, decision: Allowed) -> frozenset[str]:
    return frozenset(scope_map.workloads[decision.workload].owners)


def _refused(other: Allowed | Denied) -> str:
    if isinstance(other, Allowed):
        return ""
    return f"{other.reason.value}: {other.message}"


def tiers_of(old: ScopeMap, new: ScopeMap, scope: str) -> tuple[Tier | None, Tier | None]:
    """How dangerous it was and is: as the highest tier of any scope with its role. Another name makes nothing harmless."""
    by_role: dict[tuple[str, str], Tier] = {}
    for one in (*old.scopes.values(), *new.scopes.values()):
        by_role[one.role] = max(by_role.get(one.role, one.tier), one.tier, key=TIER_ORDER.__getitem__)
    was, is_now = old.scopes.get(scope), new.scopes.get(scope)
    return by_role[was.role] if was else None, by_role[is_now.role] if is_now else None


def ordered(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Those that widen first; the same maps give the same order."""
    return tuple(
        sorted(
            changes,
            key=lambda one: (
                [*Kind].index(one.kind),
                one.scope,
                one.workload,
                one.attribute,
                one.rule.name,
                one.before,
                one.after,
            ),
        )
    )


def for_workflows(change: Change) -> str:
    """For which workflows, in words."""
    if change.workflows is None:
        return "any workflow" + (f" but {listed({*change.but})}" if change.but else "")
    return f"workflow{'s' if len(change.workflows) > 1 else ''} {listed({*change.workflows})}"
