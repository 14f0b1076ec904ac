"""What an operators file leaves undone, and what nobody could approve under a scope map. Pure; for people who write them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from broker.operators.file import OperatorsFile
from broker.operators.model import GROUP, Operator, Role
from broker.policy.problems import did_you_mean, show
from broker.policy.scope_map import ScopeMap

_SHOWN = 5  # names in one line


def gaps(file: OperatorsFile, *, keys: Collection[str] = ()) -> Iterator[str]:
    """Of the file by itself. `keys`: names in [scopes.keys]."""
    people = file.operators.values()
    for one in people:
        duty = next((role.value for role in (Role.APPROVER, Role.RESPONDER) if one.has(role)), "")
        if duty and one.second_factor is None:
            yield f"{one.name} is {duty} and has no second factor: it can neither approve nor reset"
    responders = [one.name for one in people if _acts(one, Role.RESPONDER)]
    if len(responders) < 2:  # noqa: PLR2004 - whoever reset a key last may not do it again while it is held
        yield (
            f"{_who(responders)} can reset a guard key; a held one that was reset before takes another operator, "
            "and so does signing what was done by break-glass"
        )
    for key in sorted(set(keys) - file.by_key.keys()):
        yield f"key {key} of [scopes.keys] is no operator's: nothing can be approved under a map that it signs"


def gaps_under(file: OperatorsFile, scope_map: ScopeMap) -> Iterator[str]:
    """Of the file together with a map."""
    yield from _strangers(file, scope_map)
    told = set()
    for workload, scope, needed in _asked(scope_map):
        for launcher in ("", *_launchers(scope_map, workload)):
            able = _able(file, scope_map, workload, launcher)
            if len(able) >= needed or (workload, scope) in told:
                continue
            told.add((workload, scope))
            by = f", opened by {launcher}" if launcher else ""
            yield (
                f"scope {scope} for workload {workload}{by} needs {needed} to approve, and {_who(able)} can: an approver "
                "with a second factor who is no owner of the workload or its launcher"
            )


def _asked(scope_map: ScopeMap) -> list[tuple[str, str, int]]:
    """(workload, scope, approvals at most), where there are any."""
    found: dict[tuple[str, str], int] = {}
    for grant in scope_map.grants.values():
        for workload in grant.workloads:
            for scope in grant.scopes:
                needed = max(grant.approvals, scope_map.scopes[scope].approvals)
                found[workload, scope] = max(needed, found.get((workload, scope), 0))
    return [(workload, scope, needed) for (workload, scope), needed in sorted(found.items()) if needed]


def _launchers(scope_map: ScopeMap, workload: str) -> list[str]:
    return sorted(one.name for one in scope_map.launchers.all if workload in one.workloads and one.owners)


def _able(file: OperatorsFile, scope_map: ScopeMap, workload: str, launcher: str) -> list[str]:
    owners = {*scope_map.workloads[workload].owners}
    owners |= {owner for one in scope_map.launchers.all if one.name == launcher for owner in one.owners}
    return [one.name for one in file.operators.values() if _acts(one, Role.APPROVER) and not one.owns(owners)]


def _acts(operator: Operator, role: Role) -> bool:
    return operator.has(role) and operator.second_factor is not None


def _strangers(file: OperatorsFile, scope_map: ScopeMap) -> Iterator[str]:
    """An owner whose name is spelled otherwise in the file is a stranger, and may approve."""
    people = file.operators.values()
    known = {*file.operators, *(GROUP + group for one in people for group in one.groups)}
    entries = [("workload", one.name, one.owners) for one in scope_map.workloads.values()]
    entries += [("launcher", one.name, one.owners) for one in scope_map.launchers.all]
    for what, name, owners in entries:
        for owner in owners:
            if not any(one.owns([owner]) for one in people):
                yield f"owner {show(owner)} of {what} {name} is no operator and no group of one{did_you_mean(owner, known)}"


def _who(names: Sequence[str]) -> str:
    if not names:
        return "nobody"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"only {', '.join(names[:_SHOWN])}{more}"
