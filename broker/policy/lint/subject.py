"""What the rules look at: a loaded map, the kinds of its scopes, the time, and where each word of it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from broker.model import ScopeKind
from broker.policy.language.document import Document, Mark, Path
from broker.policy.language.files import Remembered, beside
from broker.policy.language.layers import joined, read_file, read_layers
from broker.policy.language.load import load_files
from broker.policy.rules import Grant, Scope, Workload
from broker.policy.scope_map import ScopeMap


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One map under examination."""

    map: ScopeMap
    kinds: Mapping[str, ScopeKind]
    now: datetime
    root: Document  # with what it extends
    teams: Mapping[str, Document] = field(default_factory=dict)

    def of_scope(self, scope: Scope, *inside: str | int) -> Mark:
        """A word of a scope's entry."""
        return self._mark(scope.team, ("scopes", scope.name, *inside))

    def of_grant(self, grant: Grant, *inside: str | int) -> Mark:
        """A word of a grant's entry."""
        return self._mark(grant.team, ("grants", grant.name, *inside))

    def _mark(self, team: str, path: Path) -> Mark:
        document = self.teams[team] if team else self.root
        return document.mark(path, key=len(path) == 2)  # noqa: PLR2004 - (section, name): the entry's own name

    def scopes_of(self, grant: Grant) -> list[Scope]:
        """In the order that the grant lists them."""
        return [self.map.scopes[name] for name in grant.scopes]

    def workloads_of(self, grant: Grant) -> list[Workload]:
        """In the order that the grant lists them."""
        return [self.map.workloads[name] for name in grant.workloads]


def examine(files: Remembered, root: str, kinds: Mapping[str, ScopeKind], now: datetime) -> Subject:
    """Load a map for the rules. Raises ScopeMapError."""
    loaded = load_files(files, root, kinds)
    names = {files.shown(name): name for name in files.contents}
    teams = {
        team.name: read_file(files, beside(names[team.rule.file], team.path)) for team in loaded.map.teams.values()
    }
    return Subject(map=loaded.map, kinds=kinds, now=now, root=joined(read_layers(files, root)), teams=teams)
