"""Document → ScopeMap: every entry validated, every name resolved, every mistake reported at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from types import MappingProxyType
from typing import TypeVar

from pydantic import BaseModel

from broker.model import NAME, Revocability, RuleRef, ScopeKind, Tier
from broker.policy import schema
from broker.policy.document import Document, Path
from broker.policy.index import Index
from broker.policy.launch import Launchers
from broker.policy.never import violations
from broker.policy.patterns import BINDING, Pattern, parse_pattern
from broker.policy.problems import Problem, ScopeMapError, did_you_mean, named, show
from broker.policy.rules import Deny, Grant, Never, Scope, ScopeTest, Workload
from broker.policy.scope_map import ScopeMap
from broker.policy.templates import mistakes, variables
from broker.policy.windows import ALWAYS, Daily, When

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")

MAX_PAIRS = 1_000_000  # (scope, workload) pairs of all grants: what the index holds in memory


def compile_map(document: Document, digest: str, kinds: Mapping[str, ScopeKind]) -> ScopeMap:
    """Compile a map. Raises ScopeMapError with every mistake."""
    compiler = _Compiler(document=document, kinds=kinds)
    scope_map = compiler.run(digest)
    if scope_map is None or compiler.problems:
        raise ScopeMapError(compiler.problems)
    return scope_map


@dataclass(slots=True)
class _Compiler:
    document: Document
    kinds: Mapping[str, ScopeKind]
    problems: list[Problem] = field(default_factory=list)
    head: schema.Head | None = None
    positions: Iterator[int] = field(default_factory=count)

    def run(self, digest: str) -> ScopeMap | None:
        if self.document.data is None:
            self.complain((), "the file is empty")
            return None
        head = schema.read_entry(schema.Head, self.document.data, (), self.document, self.problems)
        self.head = head = head or schema.lenient_head(self.document.data)
        workloads = self.section("workloads", head.workloads, self.workload)
        scopes = self.section("scopes", head.scopes, self.scope)
        self.check_tiers(self.section("tiers", head.tiers, self.tier), scopes.values())
        grants = self.section("grants", head.grants, self.grant)
        denies = self.section("denies", head.denies, self.deny)
        nevers = self.section("never", head.never, self.never)
        tests = (self.test(data, ("tests", number)) for number, data in enumerate(head.tests))
        expectations = tuple(test for test in tests if test is not None)
        if not self.bounded(grants.values()):
            return None
        self.check_variables(grants.values(), workloads, scopes)
        for never, message in violations(nevers.values(), grants.values(), workloads, scopes):
            self.complain(("never", never.name), message, key=True)
        if self.problems:
            return None
        index = Index(
            trust_domain=head.trust_domain,
            workloads=workloads.values(),
            scopes=scopes,
            grants=grants.values(),
            denies=denies.values(),
        )
        return ScopeMap(
            file=self.document.file,
            digest=digest,
            environment=head.environment,
            trust_domain=head.trust_domain,
            workloads=MappingProxyType(workloads),
            scopes=MappingProxyType(scopes),
            grants=MappingProxyType(grants),
            denies=MappingProxyType(denies),
            nevers=MappingProxyType(nevers),
            tests=expectations,
            index=index,
            launchers=Launchers(head.trust_domain, ()),
        )

    # --- entries ---

    def section(self, name: str, data: Mapping[str, object], read: Callable[[object, Path], R | None]) -> dict[str, R]:
        found: dict[str, R] = {}
        for key, entry in data.items():
            if not NAME.fullmatch(key):
                self.complain((name, key), "not a name: letters, digits and . _ : + @ = -", key=True)
                continue
            compiled = read(entry, (name, key))
            if compiled is not None:
                found[key] = compiled
        return found

    def workload(self, data: object, path: Path) -> Workload | None:
        entry = self.entry(schema.WorkloadEntry, data, path)
        if entry is None:
            return None
        pattern = self.pattern(entry.id, (*path, "id"))
        if pattern is None:
            return None
        return Workload(
            name=str(path[-1]),
            pattern=pattern,
            owners=tuple(entry.owners),
            description=entry.description,
            rule=self.rule(path, prefix="workloads."),
        )

    def scope(self, data: object, path: Path) -> Scope | None:
        blocks: dict[str, object] = {}
        if isinstance(data, dict):
            blocks = {key: value for key, value in data.items() if key in self.kinds}
            data = {key: value for key, value in data.items() if key not in self.kinds}
        entry = self.entry(schema.ScopeEntry, data, path, also=self.kinds)
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
        return Scope(
            name=str(path[-1]),
            provider=provider,
            block=block,
            variables=variables(block),
            ttl=entry.ttl,
            max_ttl=entry.max_ttl or entry.ttl,
            tier=entry.tier,
            revocability=self.kinds[provider].revocability(block),
            residency=tuple(entry.residency),
            description=entry.description,
            rule=self.rule(path, prefix="scopes."),
        )

    def block(self, block: object, path: Path, kind: ScopeKind) -> None:
        if not isinstance(block, dict):
            self.complain(path, "expected a mapping")
            return
        for inside, message in (*kind.validate(block), *mistakes(block)):
            self.complain((*path, *inside), message)

    def tier(self, data: object, path: Path) -> frozenset[Revocability] | None:
        entry = self.entry(schema.TierEntry, data, path)
        names = [tier.value for tier in Tier]
        if path[-1] not in names:
            self.complain(
                path, f"no tier{named(str(path[-1])) or ' of that name'}; there are {', '.join(names)}", key=True
            )
        return frozenset(entry.revocability) if entry else None

    def check_tiers(self, tiers: Mapping[str, frozenset[Revocability]], scopes: Iterable[Scope]) -> None:
        """A scope that cannot be ended as its tier demands does not load."""
        for scope in scopes:
            taken = tiers.get(scope.tier.value, frozenset(Revocability))
            if scope.revocability not in taken:
                listed = ", ".join(sorted(one.value for one in taken))
                message = f"is {scope.revocability.value}, and tier {scope.tier.value} takes only {listed}"
                self.complain(("scopes", scope.name), message, key=True)

    def grant(self, data: object, path: Path) -> Grant | None:
        entry = self.entry(schema.GrantEntry, data, path)
        self.names(data, path)
        if entry is None:
            return None
        return Grant(
            name=str(path[-1]),
            position=next(self.positions),
            workloads=tuple(entry.workloads),
            workflows=None if entry.workflows == [schema.ANY] else frozenset(entry.workflows),
            scopes=tuple(entry.scopes),
            digests=_set(entry.definition_digest),
            max_step=entry.max_step,
            concurrent=entry.concurrent,
            when=self.when(entry.when, (*path, "when")),
            rule=self.rule(path),
        )

    def deny(self, data: object, path: Path) -> Deny | None:
        entry = self.entry(schema.DenyEntry, data, path)
        self.names(data, path)
        if entry is None:
            return None
        return Deny(
            name=str(path[-1]),
            workloads=_set(entry.workloads),
            workflows=None if entry.workflows == [schema.ANY] else _set(entry.workflows),
            scopes=_set(entry.scopes),
            digests=_set(entry.definition_digest),
            when=self.when(entry.when, (*path, "when")),
            rule=self.rule(path, prefix="denies."),
        )

    def never(self, data: object, path: Path) -> Never | None:
        entry = self.entry(schema.NeverEntry, data, path)
        self.names(data, path)
        if entry is None:
            return None
        agents = self.pattern(entry.agents, (*path, "agents"), wildcard=True)
        if agents is None:
            return None
        rule = self.rule(path, prefix="never.")
        return Never(name=str(path[-1]), agents=agents, tier=entry.tier, scopes=_set(entry.scopes), rule=rule)

    def test(self, data: object, path: Path) -> ScopeTest | None:
        entry = self.entry(schema.Expectation, data, path)
        if entry is None:
            return None
        # A misspelt scope would make `expect: deny` pass for ever.
        self.known("scope", entry.ask, (*path, "ask"))
        fields = {
            name: getattr(entry, name) for name in ("agent", "ask", "at", "proven", "definition_digest", "reason")
        }
        claims = {name: getattr(entry, name) for name in BINDING}
        number = int(path[-1]) + 1
        line, column = self.document.mark(path)
        rule = RuleRef(name=f"tests.{number}", file=self.document.file, line=line, column=column)
        return ScopeTest(**fields, **claims, expect_allowed=entry.expect, rule=rule)

    # --- parts ---

    def when(self, entry: schema.WhenEntry, path: Path) -> When:
        if entry.until is None and entry.daily is None:
            return ALWAYS
        daily = None
        if entry.daily is not None:
            daily = Daily(start=entry.daily.start, end=entry.daily.end, tz=entry.daily.tz)
            if daily.start == daily.end:
                self.complain((*path, "daily"), "from and to are the same time", key=True)
        return When(until=entry.until, daily=daily)

    def pattern(self, text: str, path: Path, *, wildcard: bool = False) -> Pattern | None:
        if self.head is None:
            return None
        try:
            return parse_pattern(text, trust_domain=self.head.trust_domain, wildcard=wildcard)
        except ValueError as error:
            self.complain(path, str(error))
            return None

    def names(self, data: object, path: Path) -> None:
        """Every workload and scope that an entry lists must be declared, also where the entry has other mistakes."""
        for key in ("workloads", "scopes"):
            used = data.get(key) if isinstance(data, dict) else None
            for number, name in enumerate(used if isinstance(used, list) else ()):
                if isinstance(name, str):
                    self.known(key.removesuffix("s"), name, (*path, key, number))

    def known(self, what: str, name: str, path: Path) -> None:
        declared: Mapping[str, object] = getattr(self.head, what + "s")
        if name not in declared:
            self.complain(path, f"no {what} is named {show(name)}{did_you_mean(name, declared)}")

    def check_variables(
        self, grants: Iterable[Grant], workloads: Mapping[str, Workload], scopes: Mapping[str, Scope]
    ) -> None:
        """A template may use what each workload's certificate says, or what a launcher can say."""
        for grant in grants:
            for number, scope in enumerate(scopes[name] for name in grant.scopes if name in scopes):
                for workload in (workloads[name] for name in grant.workloads if name in workloads):
                    unknown = scope.variables - {*workload.pattern.captures, *BINDING}
                    for name in sorted(unknown):
                        message = f"scope {show(scope.name)} uses {{{name}}}, which workload {show(workload.name)} does not capture"
                        self.complain(("grants", grant.name, "scopes", number), message)

    def bounded(self, grants: Iterable[Grant]) -> bool:
        pairs = sum(len(grant.scopes) * len(grant.workloads) for grant in grants)
        if pairs > MAX_PAIRS:
            self.complain(("grants",), f"more than {MAX_PAIRS} pairs of scope and workload", key=True)
        return pairs <= MAX_PAIRS

    def entry(self, kind: type[M], data: object, path: Path, *, also: Iterable[str] = ()) -> M | None:
        return schema.read_entry(kind, data, path, self.document, self.problems, also=also)

    def rule(self, path: Path, *, prefix: str = "") -> RuleRef:
        line, column = self.document.mark(path, key=True)
        return RuleRef(name=f"{prefix}{path[-1]}", file=self.document.file, line=line, column=column)

    def complain(self, path: Path, message: str, *, key: bool = False) -> None:
        self.problems.append(self.document.problem(path, message, key=key))


def _set(values: list[str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)
