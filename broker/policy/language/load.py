"""From files to a ScopeMap, or to every reason why not."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from broker.model import ScopeKind
from broker.policy.analysis.cells import TooManyCombinations
from broker.policy.analysis.narrowing import widenings
from broker.policy.language.checks import at
from broker.policy.language.compile import Root, add_team, build, compile_root, compile_team
from broker.policy.language.document import Document, read_document
from broker.policy.language.files import Files, Folder, Memory, Remembered, beside
from broker.policy.language.layers import joined, read_file, read_layers, under
from broker.policy.language.parts import Parts, Team
from broker.policy.problems import Problem, ScopeMapError, show
from broker.policy.rules import Grant, Scope
from broker.policy.scope_map import ScopeMap


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A map, and what it was made of."""

    map: ScopeMap
    contents: Mapping[str, bytes]  # name → bytes of every file that is in force
    refused: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)  # team → why its new file is not in force


def load_files(
    files: Files,
    root: str,
    kinds: Mapping[str, ScopeKind],
    *,
    environment: str | None = None,
    trust_domain: str | None = None,
    federations: Collection[str] | None = None,
    kept: Mapping[str, bytes] | None = None,
) -> Loaded:
    """Read and compile a map with all of its files; `environment` and `trust_domain`, when given, must be its own.

    `federations`: the further trust domains whose certificates the broker takes; None, as for tools: whichever.
    `kept`: the last good contents. Where it is given, a team's bad file fails alone: its kept one is taken in its place
    when that is good by today's bounds, else the team has nothing; `refused` says why. Without it one bad file refuses all.
    Blocking: seconds for a map near the size limit. Raises ScopeMapError.
    """
    seen = Remembered(files=files)
    layers = read_layers(seen, root)
    layer_names = {seen.shown(name): name for name in seen.contents}
    refused: dict[str, tuple[Problem, ...]] = {}
    at_fault: Counter[str] = Counter()  # teams, by how many of their files made this map widen what it extends
    while True:
        compiled = compile_root(joined(layers), kinds)
        _must_be_for(compiled, environment=environment, trust_domain=trust_domain)
        _must_be_known(compiled, federations)
        refused |= _add_teams(compiled, seen, layer_names, kinds, kept=kept, at_fault=at_fault)
        if refused and kept is None:
            raise ScopeMapError(problem for problems in refused.values() for problem in problems)
        found = build(compiled, digest_of(seen.contents))
        wide, teams = _widens(layers, compiled.document, found, seen, kinds)
        if not wide:
            return Loaded(map=found, contents=seen.contents, refused=refused)
        if kept is None or not teams:
            raise ScopeMapError(wide)
        at_fault.update(teams)
        refused |= {team: wide for team in teams if team not in refused}


def _widens(
    layers: list[Document], whole: Document, extending: ScopeMap, seen: Remembered, kinds: Mapping[str, ScopeKind]
) -> tuple[tuple[Problem, ...], frozenset[str]]:
    """Each file may only narrow what it extends, as it stands below the root file: where not, and by which teams' files.

    Where it cannot be said, it is by all of them: one team must not keep the others' map out.
    """
    for number in range(1, len(layers)):
        base_root = compile_root(under(joined(layers[number:]), whole), kinds)
        _add_good_teams(base_root, seen, kinds)
        base = build(base_root, "")
        rules: list[Grant | Scope] = [*extending.grants.values(), *extending.scopes.values()]
        try:
            problems = widenings(base, extending)
        except TooManyCombinations as error:
            message = f"whether this only narrows what it extends cannot be said: {error}"
            teams = {rule.team for rule in rules if rule.team}
            return (layers[0].problem(("extends",), message),), frozenset(teams)
        if problems:
            files = {rule.rule.file: rule.team for rule in rules if rule.team}
            return tuple(problems), frozenset(files[one.file] for one in problems if one.file in files)
        extending = base
    return (), frozenset()


def _add_good_teams(root: Root, seen: Remembered, kinds: Mapping[str, ScopeKind]) -> None:
    """The files that are in force, where this root takes them, too; one that it does not take gives nothing here."""
    names = {seen.shown(name): name for name in seen.contents}
    for team in root.parts.teams.values():
        try:
            name = beside(names[_said_in(root, team)], team.path)
            raw = seen.contents[name]
            own = compile_team(root, team, read_document(raw, seen.shown(name)), kinds)
        except (ValueError, KeyError, ScopeMapError):
            continue
        add_team(root, team, own)


def _must_be_for(root: Root, **expected: str | None) -> None:
    """The broker's own environment and trust domain, where it has said them."""
    problems = [
        root.document.problem((key,), f"this is a map for {found!r}; the broker serves {asked!r}")
        for key, asked in expected.items()
        if (found := root.constants[key]) != asked and asked is not None
    ]
    if problems:
        raise ScopeMapError(problems)


def _must_be_known(root: Root, federations: Collection[str] | None) -> None:
    """A trust domain that the broker has no bundle of could never call: whoever wrote the map believes otherwise."""
    problems = [
        root.document.problem(
            ("federates_with", number),
            f"the broker does not federate with {domain!r}: add [federation.{json.dumps(domain)}] to its config, or take it out",
        )
        for number, domain in enumerate(root.head.federates_with)
        if federations is not None and domain not in federations
    ]
    if problems:
        raise ScopeMapError(problems)


def _add_teams(
    root: Root,
    seen: Remembered,
    names: Mapping[str, str],
    kinds: Mapping[str, ScopeKind],
    *,
    kept: Mapping[str, bytes] | None,
    at_fault: Mapping[str, int],
) -> dict[str, tuple[Problem, ...]]:
    """Each team's file, or its kept one; why those that are refused are.

    `names`: as it is shown → name, of the root and what it extends. `at_fault`: teams with a file that will not do.
    """
    taken = set(names.values())
    refused: dict[str, tuple[Problem, ...]] = {}
    for team in root.parts.teams.values():
        path = ("teams", team.name, "path")
        try:
            name = beside(names[_said_in(root, team)], team.path)
        except ValueError as error:
            refused[team.name] = (root.document.problem(path, str(error)),)
            continue
        if name in taken:  # what one of them drops would be missing from what the other one is known by
            refused[team.name] = (root.document.problem(path, f"{seen.shown(name)} is another part of this map"),)
            continue
        taken.add(name)
        own = None
        if not at_fault.get(team.name):
            try:
                own = compile_team(root, team, read_file(seen, name, (root.document, path)), kinds)
            except ScopeMapError as error:
                refused[team.name] = error.problems
        if own is None:
            seen.contents.pop(name, None)
            last = _kept_team(root, team, name, kinds, kept or {}) if at_fault.get(team.name, 0) <= 1 else None
            if last is None:
                continue
            own, seen.contents[name] = last
        add_team(root, team, own)
    if kept is None and not refused:
        unknown = [test for test in root.parts.tests if test.ask not in root.parts.scopes]
        refused |= {test.rule.name: (at(test.rule, f"no scope is named {show(test.ask)}"),) for test in unknown}
    return refused


def _said_in(root: Root, team: Team) -> str:
    """The file that says where the team's is."""
    return root.document.mark(("teams", team.name, "path")).file


def _kept_team(
    root: Root, team: Team, name: str, kinds: Mapping[str, ScopeKind], kept: Mapping[str, bytes]
) -> tuple[Parts, bytes] | None:
    """The last good file of a team, when it is good by today's bounds and nevers."""
    if name not in kept:
        return None
    try:
        return compile_team(root, team, read_document(kept[name], f"kept {name}"), kinds), kept[name]
    except ScopeMapError:
        return None


def digest_of(contents: Mapping[str, bytes]) -> str:
    """SHA-256 (hex) over the names and contents of all files."""
    total = hashlib.sha256()
    for name in sorted(contents):
        for part in (name.encode(), contents[name]):
            total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


def load(
    path: Path,
    kinds: Mapping[str, ScopeKind],
    *,
    environment: str | None = None,
    trust_domain: str | None = None,
    federations: Collection[str] | None = None,
) -> ScopeMap:
    """A map on disk, all of its files good. Raises ScopeMapError."""
    folder = Folder(path=path.parent)
    return load_files(
        folder, path.name, kinds, environment=environment, trust_domain=trust_domain, federations=federations
    ).map


def parse(
    text: bytes | str,
    file: str,
    kinds: Mapping[str, ScopeKind],
    *,
    environment: str | None = None,
    trust_domain: str | None = None,
    federations: Collection[str] | None = None,
) -> ScopeMap:
    """A map of one file, from its text; `file` is the name used in positions. Raises ScopeMapError."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    files = Memory(contents={file: raw})
    return load_files(
        files, file, kinds, environment=environment, trust_domain=trust_domain, federations=federations
    ).map
