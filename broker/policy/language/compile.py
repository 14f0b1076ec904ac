"""Documents → ScopeMap: every entry validated, every name resolved, every mistake reported at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from broker.model import NAME, JsonValue, ScopeKind
from broker.policy.decision import Signers
from broker.policy.index import Index
from broker.policy.language import checks
from broker.policy.language.document import Document
from broker.policy.language.parts import Parts, Team
from broker.policy.language.reader import Reader
from broker.policy.language.schema import entries
from broker.policy.language.schema.read import read_entry
from broker.policy.language.team_bounds import check_bounds
from broker.policy.launch import Launchers
from broker.policy.patterns import BINDING
from broker.policy.problems import Problem, ScopeMapError
from broker.policy.scope_map import ScopeMap

BUILT_IN = ("environment", "trust_domain")  # constants that every map has
_CONSTANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)  # never a dot segment
_CONSTANT_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_REGION = re.compile(r"[a-z][a-z0-9-]{1,31}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Root:
    """The root file (with what it extends), compiled; to it come the teams' files."""

    document: Document
    head: entries.Head
    constants: Mapping[str, str]
    parts: Parts
    positions: Iterator[int]


def compile_root(document: Document, kinds: Mapping[str, ScopeKind]) -> Root:
    """Everything but the teams' files.

    Raises ScopeMapError with every mistake.
    """
    problems: list[Problem] = []
    if document.data is None:
        raise ScopeMapError([document.problem((), "the file is empty")])
    head = read_entry(entries.Head, document.data, (), document, problems) or entries.lenient_head(document.data)
    reader = Reader(
        document=document, kinds=kinds, constants={}, workloads=head.workloads, scopes=head.scopes, problems=problems
    )
    reader.constants = _constants(reader, head)
    reader.federates_with = _federations(reader, head)
    parts = Parts(residency=_residency(reader, head))
    parts.tiers = reader.section("tiers", head.tiers, reader.tier)
    reader.tiers = parts.tiers
    parts.workloads = reader.section("workloads", head.workloads, reader.workload)
    parts.launchers = reader.section("launchers", head.launchers, reader.launcher)
    parts.scopes = reader.section("scopes", head.scopes, reader.scope)
    problems += checks.scope_problems(parts, parts.scopes.values(), kinds)
    parts.grants = reader.section("grants", head.grants, reader.grant)
    parts.denies = reader.section("denies", head.denies, reader.deny)
    parts.nevers = reader.section("never", head.never, reader.never)
    parts.teams = reader.section("teams", head.teams, reader.team_entry)
    if len(parts.teams) > checks.MAX_TEAMS:
        reader.complain(("teams",), f"more than {checks.MAX_TEAMS} teams", key=True)
    _prefixes_are_apart(reader, parts)
    prefixes = tuple(team.scopes_prefix for team in parts.teams.values())
    asked = [test.get("ask") for test in head.tests if isinstance(test, dict)]
    # A test may ask for a team's scope: whether there is one is seen when the team's file is there.
    reader.scopes = [*head.scopes, *(ask for ask in asked if isinstance(ask, str) and ask.startswith(prefixes))]
    parts.tests = reader.tests(head.tests)
    if not checks.bounded(parts, ()):
        reader.complain(("grants",), f"more than {checks.MAX_PAIRS} pairs of scope and workload", key=True)
        raise ScopeMapError(problems)
    checks.template_problems(parts, reader, parts.grants.values())
    checks.owner_problems(parts, reader, parts.grants.values())
    problems += checks.never_problems(parts, parts.grants.values())
    if problems:
        raise ScopeMapError(problems)
    return Root(document=document, head=head, constants=reader.constants, parts=parts, positions=reader.positions)


def compile_team(root: Root, team: Team, document: Document, kinds: Mapping[str, ScopeKind]) -> Parts:
    """A team's file, within its bounds. Raises ScopeMapError with every mistake."""
    problems: list[Problem] = []
    if document.data is None:
        raise ScopeMapError([document.problem((), "the file is empty")])
    found = read_entry(entries.TeamHead, document.data, (), document, problems)
    head = found or entries.lenient_team_head(document.data)
    reader = Reader(
        document=document,
        kinds=kinds,
        constants=root.constants,
        workloads=root.parts.workloads,
        scopes=[*head.scopes, *root.parts.scopes],
        tiers=root.parts.tiers,
        team=team.name,
        positions=root.positions,
        problems=problems,
    )
    own = Parts()
    own.scopes = reader.section("scopes", head.scopes, reader.scope)
    own.grants = reader.section("grants", head.grants, reader.grant)
    own.denies = reader.section("denies", head.denies, reader.deny)
    own.tests = reader.tests(head.tests)
    if not checks.bounded(root.parts, own.grants.values()):
        reader.complain(("grants",), f"more than {checks.MAX_PAIRS} pairs of scope and workload", key=True)
        raise ScopeMapError(problems)
    problems += checks.scope_problems(root.parts, own.scopes.values(), kinds)
    check_bounds(team, root.parts, reader, own)
    together = _with_scopes_of(root.parts, own)
    checks.template_problems(together, reader, own.grants.values())
    checks.owner_problems(together, reader, own.grants.values())
    problems += checks.never_problems(together, own.grants.values(), of_team=True)
    if problems:
        raise ScopeMapError(problems)
    return own


def add_team(root: Root, team: Team, own: Parts) -> None:
    """Put a good team file's parts to the root's."""
    parts = root.parts
    grants = {f"{team.name}:{name}": grant for name, grant in own.grants.items()}
    denies = {f"{team.name}:{name}": deny for name, deny in own.denies.items()}
    if taken := own.scopes.keys() & parts.scopes | grants.keys() & parts.grants | denies.keys() & parts.denies:
        raise AssertionError(f"a team's rules must take no other's place: {sorted(taken)}")
    parts.scopes |= own.scopes
    parts.grants |= grants
    parts.denies |= denies
    parts.tests += own.tests


def build(root: Root, digest: str) -> ScopeMap:
    """The immutable, indexed map."""
    parts, head = root.parts, root.head
    index = Index(
        trust_domains=frozenset((head.trust_domain, *head.federates_with)),
        workloads=parts.workloads.values(),
        scopes=parts.scopes,
        grants=parts.grants.values(),
        denies=parts.denies.values(),
    )
    return ScopeMap(
        file=root.document.file,
        digest=digest,
        environment=head.environment,
        trust_domain=head.trust_domain,
        federates_with=frozenset(head.federates_with),
        signers_may_approve=head.approvals.signers is Signers.ALLOW,
        workloads=MappingProxyType(parts.workloads),
        scopes=MappingProxyType(parts.scopes),
        grants=MappingProxyType(parts.grants),
        denies=MappingProxyType(parts.denies),
        nevers=MappingProxyType(parts.nevers),
        tiers=MappingProxyType(parts.tiers),
        teams=MappingProxyType(parts.teams),
        residency=MappingProxyType(parts.residency),
        tests=tuple(parts.tests),
        index=index,
        launchers=Launchers(parts.launchers.values()),
    )


def _with_scopes_of(parts: Parts, own: Parts) -> Parts:
    return Parts(workloads=parts.workloads, nevers=parts.nevers, scopes={**parts.scopes, **own.scopes})


def _constants(reader: Reader, head: entries.Head) -> dict[str, str]:
    found = {"environment": head.environment, "trust_domain": head.trust_domain}
    for name, value in head.constants.items():
        path = ("constants", name)
        if not _CONSTANT_NAME.fullmatch(name) or name in BUILT_IN or name in BINDING:
            reader.complain(path, "not a name for a constant: a-z 0-9 _, and no word that has a meaning", key=True)
        elif value is None:
            reader.complain(path, "has no value; a map that extends this one gives it")
            found[name] = "unset"
        elif not isinstance(value, str) or not _CONSTANT.fullmatch(value):
            reader.complain(path, "a constant is text of A-Z a-z 0-9 . _ -; put it in quotes")
            found[name] = "unset"
        else:
            found[name] = value
    return found


def _federations(reader: Reader, head: entries.Head) -> list[str]:
    for number, domain in enumerate(head.federates_with):
        if domain == head.trust_domain:
            reader.complain(("federates_with", number), "is this map's own trust domain")
    return head.federates_with


def _prefixes_are_apart(reader: Reader, parts: Parts) -> None:
    """Else one team could declare, or grant, what is another's."""
    for name, team in parts.teams.items():
        for other in parts.teams.values():
            if other.name != name and team.scopes_prefix.startswith(other.scopes_prefix):
                message = f"begins as {other.scopes_prefix!r} of team {other.name} does: each needs one of its own"
                reader.complain(("teams", name, "scopes_prefix"), message)


def _residency(reader: Reader, head: entries.Head) -> dict[str, frozenset[str]]:
    found = {}
    for name, regions in head.residency.items():
        path = ("residency", name)
        if not NAME.fullmatch(name):
            reader.complain(path, "not a name: letters, digits and . _ : + @ = -", key=True)
        elif not _is_list_of_regions(regions):
            reader.complain(path, "expected a list of regions such as [eu-west-1]")
        else:
            found[name] = frozenset(regions)
    return found


def _is_list_of_regions(value: JsonValue) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, str) and _REGION.fullmatch(one) for one in value)
    )
