"""The conditions of `decide`, one by one, over what is left of a map's rules for a question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from broker.policy.analysis.times import concerns, usable
from broker.policy.decision import AccessRequest
from broker.policy.patterns import BINDING
from broker.policy.rules import Deny, Grant, Match
from broker.policy.scope_map import ScopeMap
from broker.policy.templates import VALUE

_NAMED_BY_NONE = "sha256:" + "0" * 56


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What is left of one map."""

    grants: tuple[tuple[Grant, Match], ...] = ()
    denies: tuple[Deny, ...] = ()
    matches: tuple[Match, ...] = ()
    bound: Mapping[str, frozenset[str]] = field(default_factory=dict)  # claim → what the certificate says it is
    variables: frozenset[str] = frozenset()  # of the scope

    @property
    def allows(self) -> bool:
        """When all conditions were looked at: some grant is left, and no deny."""
        return bool(self.grants) and not self.denies

    @property
    def rules(self) -> Iterator[Grant | Deny]:
        """That can still matter: where no grant is left, none does."""
        if self.grants:
            yield from (grant for grant, _ in self.grants)
            yield from self.denies


GrantHolds: TypeAlias = Callable[[AccessRequest, State, Grant, Match], bool]
DenyHolds: TypeAlias = Callable[[AccessRequest, State, Deny], bool]


def start(scope_map: ScopeMap, scope: str, agent: str) -> State:
    """Every rule that the index finds."""
    if scope not in scope_map.scopes:
        return State()
    matches = scope_map.index.matches(agent)
    bound: dict[str, frozenset[str]] = {}
    for match in matches:
        for name in BINDING:
            if name in match.captures:
                bound[name] = bound.get(name, frozenset()) | {match.captures[name]}
    return State(
        grants=tuple((grant, m) for m in matches for grant in scope_map.index.grants_of(scope, m.workload.name)),
        denies=tuple(scope_map.index.denies_of(scope, matches)),
        matches=matches,
        bound=bound,
        variables=scope_map.scopes[scope].variables,
    )


def without_denies(asked: AccessRequest, state: State, holds: DenyHolds) -> State:
    """Only the denies for which it holds are left."""
    return replace(state, denies=tuple(deny for deny in state.denies if holds(asked, state, deny)))


# --- grants ---


def claims_agree(asked: AccessRequest, state: State, _grant: Grant, _match: Match) -> bool:
    """With the certificate, in whichever workload it fits."""
    return all(texts == {getattr(asked, name)} for name, texts in state.bound.items())


def workflow_granted(asked: AccessRequest, _state: State, grant: Grant, _match: Match) -> bool:
    """Named, or any."""
    return grant.workflows is None or asked.workflow in grant.workflows


def templates_filled(asked: AccessRequest, state: State, _grant: Grant, match: Match) -> bool:
    """With what is proven, and fit for it."""
    proven = {name: getattr(asked, name) for name in BINDING} if asked.proven else {}
    values = {**proven, **match.captures}
    return all(name in values and VALUE.fullmatch(values[name]) for name in state.variables)


def digest_pinned(asked: AccessRequest, _state: State, grant: Grant, _match: Match) -> bool:
    """Proven, and one of its own."""
    return grant.digests is None or (asked.proven and asked.definition_digest in grant.digests)


def proof_given(asked: AccessRequest, _state: State, grant: Grant, _match: Match) -> bool:
    """Where it pins a digest."""
    return grant.digests is None or asked.proven


def time_right(asked: AccessRequest, _state: State, grant: Grant, _match: Match) -> bool:
    """Open, with enough left."""
    return usable(grant.when, asked.now)


def network_right(asked: AccessRequest, _state: State, grant: Grant, _match: Match) -> bool:
    """One of its own; an unknown address is in none."""
    return bool(grant.when.reaches(asked.address))


def attempt_right(asked: AccessRequest, _state: State, grant: Grant, _match: Match) -> bool:
    """Not opened too often."""
    return grant.attempts is None or asked.attempt <= grant.attempts


# --- denies: what cannot be evaluated holds ---


def workflow_denied(asked: AccessRequest, state: State, deny: Deny) -> bool:
    """Named, or only claimed."""
    known = asked.proven or "workflow" in state.bound
    return deny.workflows is None or not known or asked.workflow in deny.workflows


def digest_denied(asked: AccessRequest, _state: State, deny: Deny) -> bool:
    """Named, or not proven."""
    known = asked.proven and asked.definition_digest
    return deny.digests is None or not known or asked.definition_digest in deny.digests


def time_denied(asked: AccessRequest, _state: State, deny: Deny) -> bool:
    """Open, or nobody can say."""
    return concerns(deny.when, asked.now)


def network_denied(asked: AccessRequest, _state: State, deny: Deny) -> bool:
    """From there, or nobody can say."""
    return deny.when.reaches(asked.address) is not False


def some_digest(number: int) -> str:
    """Digests for those that no rule names."""
    return f"{_NAMED_BY_NONE}{number:08x}"


def is_any(digest: str) -> bool:
    """Does it stand for those?"""
    return digest.startswith(_NAMED_BY_NONE)
