"""A team's file against the bounds that the root gives it."""

from __future__ import annotations

from collections.abc import Mapping

from broker.model import ScopeKind
from broker.policy.parts import TIER_ORDER, Parts, Team
from broker.policy.problems import show
from broker.policy.reader import Reader


def check_bounds(team: Team, parts: Parts, reader: Reader, own: Parts, kinds: Mapping[str, ScopeKind]) -> None:
    """`parts`: the root's; `own`: the team's."""
    _scopes(team, parts, reader, own, kinds)
    _grants(team, parts, reader, own)
    for name, deny in own.denies.items():
        if deny.scopes is None or not all(scope.startswith(team.scopes_prefix) for scope in deny.scopes):
            message = f"a team denies scopes of its own: name scopes that begin with {team.scopes_prefix!r}"
            reader.complain(("denies", name), message, key=True)


def _scopes(team: Team, parts: Parts, reader: Reader, own: Parts, kinds: Mapping[str, ScopeKind]) -> None:
    for name, scope in own.scopes.items():
        path = ("scopes", name)
        if not name.startswith(team.scopes_prefix):
            reader.complain(path, f"the names of team {team.name}'s scopes begin with {team.scopes_prefix!r}", key=True)
        if name in parts.scopes:
            reader.complain(path, f"is declared by {parts.scopes[name].rule} already", key=True)
        if TIER_ORDER[scope.tier] > TIER_ORDER[team.max_tier]:
            reader.complain((*path, "tier"), f"above {team.max_tier.value}, the highest tier of team {team.name}")
        # Else a team could lend itself any power that the broker has, under a low tier.
        role = kinds[scope.provider].role(scope.block)
        if not team.lends(role):
            reader.complain((*path, scope.provider), f"role {show(role)} is not one that team {team.name} may use")


def _grants(team: Team, parts: Parts, reader: Reader, own: Parts) -> None:
    for name, grant in own.grants.items():
        for number, used in enumerate(grant.workloads):
            if used in parts.workloads and used not in team.workloads:
                message = f"workload {show(used)} is not one that team {team.name} may grant to"
                reader.complain(("grants", name, "workloads", number), message)
        for number, used in enumerate(grant.scopes):
            found = own.scopes.get(used) or parts.scopes.get(used)
            message = ""
            if found is not None and not used.startswith(team.scopes_prefix):
                message = f"team {team.name} grants scopes that begin with {team.scopes_prefix!r}"
            elif found is not None and TIER_ORDER[found.tier] > TIER_ORDER[team.max_tier]:
                message = f"above {team.max_tier.value}, the highest tier of team {team.name}"
            if message:
                reader.complain(("grants", name, "scopes", number), message)
