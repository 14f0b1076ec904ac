"""Entries of one file → rules. Every entry is read alone; every mistake is reported at its place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from pydantic import BaseModel

from broker.config import TierOverride
from broker.model import NAME, JsonValue, OnLock, Revocability, RuleRef, ScopeKind, Tier
from broker.policy.durations import format_duration
from broker.policy.language.document import Document, Path
from broker.policy.language.parts import Team, TierRule
from broker.policy.language.schema import entries
from broker.policy.language.schema.read import read_entry
from broker.policy.language.schema.values import ANY
from broker.policy.language.tiers import tier_mistakes
from broker.policy.launch import Launcher
from broker.policy.patterns import BINDING, Pattern, parse_pattern
from broker.policy.problems import Problem, did_you_mean, named, show
from broker.policy.rules import Deny, Grant, Never, Scope, ScopeTest, Workload
from broker.policy.templates import fill, mistakes, variables
from broker.policy.windows import ALWAYS, EVERY_DAY, Daily, When

TEAMS_OWN = ("grants", "denies", "teams")  # sections whose names make those of teams' rules

HINTED = 20  # mistakes with a hint: each compares hundreds of names (30 ms), and a file can have thousands
ENOUGH = 500  # mistakes of a file
M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")


@dataclass(slots=True, kw_only=True)
class Reader:
    """Of one file: the root (with what it extends), or a team's."""

    document: Document
    kinds: Mapping[str, ScopeKind]
    constants: Mapping[str, str]  # environment and trust_domain among them
    workloads: Collection[str]  # names that may be used
    scopes: Collection[str]
    federates_with: Collection[str] = ()  # trust domains that ids may be of, beside the map's own
    tiers: Mapping[str, TierRule] = field(default_factory=dict)
    team: str = ""
    positions: Iterator[int] = field(default_factory=count)
    problems: list[Problem] = field(default_factory=list)

    def section(self, name: str, data: Mapping[str, object], read: Callable[[object, Path], R | None]) -> dict[str, R]:
        """Every entry of a section that can be read."""
        found: dict[str, R] = {}
        for key, entry in data.items():
            if len(self.problems) > ENOUGH:
                break
            if not NAME.fullmatch(key):
                self.complain((name, key), "not a name: letters, digits and . _ : + @ = -", key=True)
                continue
            if name in TEAMS_OWN and ":" in key:  # else a team's rule could take the place of the root's
                self.complain((name, key), "no ':' in it: team:rule is how a team's rules are named", key=True)
                continue
            compiled = read(entry, (name, key))
            if compiled is not None:
                found[key] = compiled
        return found

    # --- entries ---

    def workload(self, data: object, path: Path) -> Workload | None:
        """One of `workloads:`."""
        entry = self.entry(entries.WorkloadEntry, data, path)
        pattern = self.pattern(entry.id, (*path, "id")) if entry else None
        if entry is None or pattern is None:
            return None
        return Workload(
            name=str(path[-1]),
            pattern=pattern,
            owners=tuple(entry.owners),
            description=entry.description,
            rule=self.rule(path, prefix="workloads."),
        )

    def launcher(self, data: object, path: Path) -> Launcher | None:
        """One of `launchers:`."""
        entry = self.entry(entries.LauncherEntry, data, path)
        self.names(data, path)
        pattern = self.pattern(entry.id, (*path, "id")) if entry else None
        if entry is None or pattern is None:
            return None
        return Launcher(
            name=str(path[-1]),
            pattern=pattern,
            owners=tuple(entry.owners),
            workloads=frozenset(entry.workloads),
            workflows=_workflows(entry.workflows),
            digests=_set(entry.definition_digest),
            when=self.when(entry.when, (*path, "when")),
            rule=self.rule(path, prefix="launchers."),
        )

    def scope(self, data: object, path: Path) -> Scope | None:
        """One of `scopes:`, with its provider's block."""
        blocks: dict[str, JsonValue] = {}
        if isinstance(data, dict):
            blocks = {key: fill(value, self.constants) for key, value in data.items() if key in self.kinds}
            data = {key: value for key, value in data.items() if key not in self.kinds}
        entry = self.entry(entries.ScopeEntry, data, path, also=self.kinds)
        for key in blocks:
            self.block(blocks[key], (*path, key), self.kinds[key])
        if len(blocks) != 1 and isinstance(data, dict):
            self.complain(path, f"needs exactly one provider: {', '.join(sorted(self.kinds))}", key=True)
        if entry is None or len(blocks) != 1:
            return None
        if entry.max_ttl is not None and entry.max_ttl < entry.ttl:
            self.complain((*path, "max_ttl"), "shorter than ttl")
        ((provider, block),) = blocks.items()
        if not isinstance(block, dict) or any(self.kinds[provider].validate(block)):
            return None
        kind = self.kinds[provider]
        block = dict(kind.completed(block, entry.tier))
        if (longest := kind.longest_life(block)) is not None and longest < entry.ttl:
            self.complain((*path, "ttl"), f"longer than the {format_duration(longest)} that {provider} gives")
        tier = self.tiers.get(entry.tier.value)
        return Scope(
            name=str(path[-1]),
            provider=provider,
            block=block,
            variables=variables(block),
            ttl=entry.ttl,
            max_ttl=entry.max_ttl or entry.ttl,
            tier=entry.tier,
            revocability=kind.revocability(block),
            residency=tuple(entry.residency),
            approvals=max(entry.approvals, tier.approvals if tier else 0),
            shared_hourly=entry.shared_hourly or 0,
            on_lock=tier.on_lock if tier else OnLock.STEP,
            limits=tier.limits if tier else TierOverride(),
            compensate=tier.compensate if tier else "",
            powers=tuple(kind.powers(block)),
            description=entry.description,
            rule=self.rule(path, prefix="scopes."),
            team=self.team,
        )

    def block(self, block: JsonValue, path: Path, kind: ScopeKind) -> None:
        """A provider's own checks, and those of its templates."""
        if not isinstance(block, dict):
            self.complain(path, "expected a mapping")
            return
        for inside, message in (*kind.validate(block), *mistakes(block)):
            self.complain((*path, *inside), message)

    def tier(self, data: object, path: Path) -> TierRule | None:
        """One of `tiers:`."""
        entry = self.entry(entries.TierEntry, data, path)
        known = [tier.value for tier in Tier]
        if path[-1] not in known:
            what = named(str(path[-1])) or " of that name"
            self.complain(path, f"no tier{what}; there are {', '.join(known)}", key=True)
        if entry is None:
            return None
        for key, message in tier_mistakes(path[-1], entry):
            self.complain((*path, key), message, key=True)
        taken = frozenset(Revocability if entry.revocability is None else entry.revocability)
        return TierRule(
            revocability=taken,
            approvals=entry.approvals,
            longest_ttl=entry.longest_ttl,
            limits=entry.limits,
            on_lock=entry.on_lock or OnLock.STEP,
            compensate=entry.compensate or "",
            rule=self.rule(path, prefix="tiers."),
        )

    def grant(self, data: object, path: Path) -> Grant | None:
        """One of `grants:`."""
        entry = self.entry(entries.GrantEntry, data, path)
        self.names(data, path)
        if entry is None:
            return None
        return Grant(
            name=str(path[-1]),
            position=next(self.positions),
            workloads=tuple(entry.workloads),
            workflows=_workflows(entry.workflows),
            scopes=tuple(entry.scopes),
            digests=_set(entry.definition_digest),
            max_step=entry.max_step,
            concurrent=entry.concurrent,
            bind=entry.bind,
            attempts=entry.attempts,
            approvals=entry.approvals,
            when=self.when(entry.when, (*path, "when")),
            rule=self.rule(path),
            team=self.team,
        )

    def deny(self, data: object, path: Path) -> Deny | None:
        """One of `denies:`."""
        entry = self.entry(entries.DenyEntry, data, path)
        self.names(data, path)
        if entry is None:
            return None
        return Deny(
            name=str(path[-1]),
            workloads=_set(entry.workloads),
            workflows=_workflows(entry.workflows),
            scopes=_set(entry.scopes),
            digests=_set(entry.definition_digest),
            when=self.when(entry.when, (*path, "when")),
            rule=self.rule(path, prefix="denies."),
        )

    def never(self, data: object, path: Path) -> Never | None:
        """One of `never:`."""
        entry = self.entry(entries.NeverEntry, data, path)
        self.names(data, path)
        agents = self.pattern(entry.agents, (*path, "agents"), wildcard=True) if entry else None
        if entry is None or agents is None:
            return None
        rule = self.rule(path, prefix="never.")
        return Never(name=str(path[-1]), agents=agents, tier=entry.tier, scopes=_set(entry.scopes), rule=rule)

    def team_entry(self, data: object, path: Path) -> Team | None:
        """One of `teams:`."""
        entry = self.entry(entries.TeamEntry, data, path)
        self.names(data, path)
        if entry is None:
            return None
        return Team(
            name=str(path[-1]),
            path=entry.path,
            scopes_prefix=entry.scopes_prefix,
            max_tier=entry.max_tier,
            workloads=frozenset(entry.workloads),
            roles=None if entry.roles is None else tuple(entry.roles),
            rule=self.rule(path, prefix="teams."),
        )

    def tests(self, data: list[object]) -> list[ScopeTest]:
        """Every one of `tests:` that can be read."""
        found = []
        for number, entry in enumerate(data):
            if len(self.problems) > ENOUGH:
                break
            found.append(self.test(entry, ("tests", number)))
        return [test for test in found if test is not None]

    def test(self, data: object, path: Path) -> ScopeTest | None:
        """One of `tests:`."""
        entry = self.entry(entries.Expectation, data, path)
        if entry is None:
            return None
        # A misspelt scope would make `expect: deny` pass for ever.
        self.known("scope", entry.ask, (*path, "ask"))
        mark = self.document.mark(path)
        name = f"{self.prefix}tests.{int(path[-1]) + 1}"
        return ScopeTest(
            agent=self.filled(entry.agent),
            ask=entry.ask,
            expect=entry.expect,
            at=entry.at,
            proven=entry.proven,
            definition_digest=entry.definition_digest,
            address=entry.address,
            attempt=entry.attempt,
            reason=entry.reason,
            rule=RuleRef(name=name, file=mark.file, line=mark.line, column=mark.column),
            **{claim: getattr(entry, claim) for claim in BINDING},
        )

    # --- parts ---

    def when(self, entry: entries.LaunchWhenEntry, path: Path) -> When:
        """Conditions of time and place."""
        networks = entry.networks if isinstance(entry, entries.WhenEntry) else None
        if entry.until is None and entry.daily is None and networks is None:
            return ALWAYS
        daily = None
        if entry.daily is not None:
            days = EVERY_DAY if entry.daily.days is None else frozenset(entry.daily.days)
            daily = Daily(start=entry.daily.start, end=entry.daily.end, tz=entry.daily.tz, days=days)
            if daily.start == daily.end:
                self.complain((*path, "daily"), "from and to are the same time", key=True)
        return When(until=entry.until, daily=daily, networks=None if networks is None else tuple(networks))

    def pattern(self, text: str, path: Path, *, wildcard: bool = False) -> Pattern | None:
        """A certificate pattern, of this map's trust domain or one that it federates with."""
        own = self.constants.get("trust_domain", "")
        try:
            return parse_pattern(
                self.filled(text), trust_domain=own, federates_with=self.federates_with, wildcard=wildcard
            )
        except ValueError as error:
            self.complain(path, str(error))
            return None

    def filled(self, text: str) -> str:
        """With the map's constants."""
        return str(fill(text, self.constants))

    def names(self, data: object, path: Path) -> None:
        """Every workload and scope that an entry lists must be declared, also where the entry has other mistakes."""
        for key in ("workloads", "scopes"):
            used = data.get(key) if isinstance(data, dict) else None
            for number, name in enumerate(used if isinstance(used, list) else ()):
                if isinstance(name, str):
                    self.known(key.removesuffix("s"), name, (*path, key, number))

    def known(self, what: str, name: str, path: Path) -> None:
        """Complain of a name that nothing has."""
        declared = self.workloads if what == "workload" else self.scopes
        if name not in declared:
            hint = did_you_mean(name, declared) if len(self.problems) < HINTED else ""
            self.complain(path, f"no {what} is named {show(name)}{hint}")

    def entry(self, kind: type[M], data: object, path: Path, *, also: Iterable[str] = ()) -> M | None:
        """By its model."""
        return read_entry(kind, data, path, self.document, self.problems, also=also)

    @property
    def prefix(self) -> str:
        """Of the names of a team's rules."""
        return f"{self.team}:" if self.team else ""

    def rule(self, path: Path, *, prefix: str = "") -> RuleRef:
        """Where an entry stands."""
        mark = self.document.mark(path, key=True)
        return RuleRef(name=f"{self.prefix}{prefix}{path[-1]}", file=mark.file, line=mark.line, column=mark.column)

    def complain(self, path: Path, message: str, *, key: bool = False) -> None:
        """Report a mistake at this place."""
        self.problems.append(self.document.problem(path, message, key=key))


def _set(values: list[str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)


def _workflows(values: list[str] | None) -> frozenset[str] | None:
    return None if values is None or values == [ANY] else frozenset(values)
