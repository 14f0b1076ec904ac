"""A team's file against the bounds that the root gives it."""

from __future__ import annotations

from broker.policy.language.parts import TIER_ORDER, Parts, Team
from broker.policy.language.reader import Reader
from broker.policy.problems import show
from broker.policy.rules import Scope


def check_bounds(team: Team, parts: Parts, reader: Reader, own: Parts) -> None:
    """`parts`: the root's; `own`: the team's."""
    _scopes(team, parts, reader, own)
    _grants(team, parts, reader, own)
    for name, deny in own.denies.items():
        # Of its own file: a deny of the root's scopes would go when the team's file is bad, and what it denied be given.
        if deny.scopes is None or not deny.scopes <= own.scopes.keys():
            reader.complain(("denies", name), "a team denies scopes of its own file: name them", key=True)


def _by_tier(scope: Scope) -> int:
    return TIER_ORDER[scope.tier]


def _scopes(team: Team, parts: Parts, reader: Reader, own: Parts) -> None:
    for name, scope in own.scopes.items():
        path = ("scopes", name)
        if not name.startswith(team.scopes_prefix):
            reader.complain(path, f"the names of team {team.name}'s scopes begin with {team.scopes_prefix!r}", key=True)
        if name in parts.scopes:
            reader.complain(path, f"is declared by {parts.scopes[name].rule} already", key=True)
        if TIER_ORDER[scope.tier] > TIER_ORDER[team.max_tier]:
            reader.complain((*path, "tier"), f"above {team.max_tier.value}, the highest tier of team {team.name}")
        # Else a team could lend itself any power that the broker has, under a low tier.
        for power in scope.powers:
            if not team.may_use(power):
                reader.complain((*path, scope.provider), f"{show(power)} is not among what team {team.name} may use")
        root = max((one for one in parts.scopes.values() if one.role == scope.role), key=_by_tier, default=scope)
        if _by_tier(root) > _by_tier(scope):
            reader.complain(
                (*path, "tier"), f"below {root.tier.value}, the tier of {root.rule}, which has the same role"
            )


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
