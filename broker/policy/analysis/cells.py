"""Questions that stand for all others.

`decide` is constant on each cell of a finite partition of all questions, so one question out of each cell answers for
all of them. The cells are walked as a tree: what a rule says of workflows, then of proof, time, network and attempt.
A rule that has failed is no longer asked, so that only what can still matter is combined. A branch in which no map has
a grant left is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from itertools import count, product
from typing import TypeAlias

from broker.model import JsonValue
from broker.policy.analysis import conditions
from broker.policy.analysis.conditions import GrantHolds, State, some_digest, without_denies
from broker.policy.analysis.identities import Fresh, Identities, fresh
from broker.policy.analysis.networks import addresses
from broker.policy.analysis.times import instants
from broker.policy.decision import AccessRequest
from broker.policy.patterns import BINDING, Pattern
from broker.policy.rules import Deny, Grant, Match, Workload
from broker.policy.scope_map import ScopeMap
from broker.policy.windows import Network, When

MAX_QUESTIONS = 2_000_000  # minutes of work; a map of 10,000 grants as people write them needs a tenth
# What is prepared counts as the questions that take as long (measured: 0.2 ms each).
_TIMES = 10  # for each pair of conditions of time
_NETWORKS = 100  # pairs of networks for one question
_SOME_TIME = datetime(2026, 1, 1, tzinfo=UTC)


class TooManyCombinations(Exception):
    """There are more cells than can be looked at. Nothing was sampled instead."""

    def __init__(self) -> None:
        super().__init__("too many combinations to answer exactly; fewer overlapping workloads or conditions help")


class Stage(IntEnum):
    """What a grant was last asked for, in this order."""

    IDENTITY = 0
    CLAIMS = 1
    WORKFLOW = 2
    TEMPLATE = 3
    PROOF = 4
    TIME = 5
    NETWORK = 6
    ATTEMPT = 7
    DENY = 8
    ALLOWED = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """The question of one cell, and what is left of each map."""

    request: AccessRequest
    states: tuple[State, ...]
    last_attempt: int | None  # of those that the question's attempt stands for; None = no last one


Node: TypeAlias = tuple[AccessRequest, tuple[State, ...]]
Note: TypeAlias = Callable[[Grant, Match, Stage], None]


class Walker:
    """Over the questions to one map, or to several at once: then their cells are those of all of them.

    Of regions that follow each other with the same scope, each certificate is asked about once. `note` is told at which stage
    each grant was looked at.
    """

    def __init__(
        self,
        maps: tuple[ScopeMap, ...],
        *,
        since: datetime | None,
        note: Note | None = None,
        limit: int = MAX_QUESTIONS,
    ) -> None:
        self.maps = maps
        self.fresh: Fresh = fresh(_mentioned(maps))
        self._since = since
        self._note = note
        self._left = limit
        self._asked: tuple[str, set[str]] = ("", set())  # the scope, and certificates asked about it
        self._instants: dict[frozenset[When], tuple[datetime, ...]] = {}
        self._addresses: dict[frozenset[tuple[Network, ...]], tuple[str, ...]] = {}

    def cells(self, scope: str, region: Pattern) -> Iterator[Cell]:
        """Every cell of one scope and the certificates of one region that a grant may reach.

        Raises TooManyCombinations.
        """
        if self._asked[0] != scope:
            self._asked = (scope, set())
        for agent in self._agents(scope, region):
            if agent in self._asked[1]:
                continue
            self._asked[1].add(agent)
            self._count()
            asked = AccessRequest(agent=agent, workflow="", run="", step="", scope=scope, now=_SOME_TIME)
            states = tuple(conditions.start(scope_map, scope, agent) for scope_map in self.maps)
            nodes: Iterator[Node] = iter([(asked, states)])
            for step in (self._claims, self._proofs, self._digests, self._times, self._networks):
                nodes = self._branches(nodes, step)
            for node in nodes:
                yield from self._attempts(node)

    def _branches(self, nodes: Iterator[Node], step: Callable[[Node], Iterator[Node]]) -> Iterator[Node]:
        for node in nodes:
            for after in step(node):
                if any(state.grants for state in after[1]):
                    yield after

    def _count(self, cost: int = 1) -> None:
        self._left -= cost
        if self._left < 0:
            raise TooManyCombinations

    # --- who ---

    def _agents(self, scope: str, region: Pattern) -> Iterator[str]:
        granted: list[Pattern] = []
        others: list[Pattern] = []
        workflows: set[str] = set()
        variables: set[str] = set()
        for scope_map in self.maps:
            overlapping = scope_map.index.overlapping(region)
            given = {one.name: one for one in overlapping if scope_map.index.grants_of(scope, one.name)}
            if not given:
                continue
            matches = tuple(Match(workload=workload, captures={}) for workload in overlapping)
            denies = scope_map.index.denies_of(scope, matches)
            denied = {name for deny in denies for name in deny.workloads or ()}
            granted += [one.pattern for one in given.values()]
            others += [one.pattern for one in overlapping if one.name not in given and _matters(one, denied)]
            grants = [grant for name in given for grant in scope_map.index.grants_of(scope, name)]
            workflows |= {name for grant in grants for name in grant.workflows or ()}
            workflows |= {name for deny in denies for name in deny.workflows or ()}
            variables |= scope_map.scopes[scope].variables
        if granted:
            found = Identities(
                region, granted, others, workflows=sorted(workflows), variables=variables, fresh=self.fresh
            )
            yield from found.agents()

    # --- what it says ---

    def _claims(self, node: Node) -> Iterator[Node]:
        asked, states = node
        for workflow, run, step in product(*(self._said(name, states) for name in BINDING)):
            said = replace(asked, workflow=workflow, run=run, step=step)
            after = self._kept(said, states, Stage.CLAIMS, conditions.claims_agree)
            yield said, self._kept(said, after, Stage.WORKFLOW, conditions.workflow_granted)

    def _said(self, name: str, states: tuple[State, ...]) -> list[str]:
        """What a claim may be: what a certificate says, or where it says nothing, what rules mention and another."""
        found: dict[str, None] = {}
        for state in states:
            if not state.grants:
                continue
            if name in state.bound:
                found |= dict.fromkeys(sorted(state.bound[name]))
                continue
            if name == "workflow":
                found |= dict.fromkeys(sorted({one for rule in state.rules for one in rule.workflows or ()}))
            other = f"other-{name}"  # and not a text that some certificate of these cells says
            found[self.fresh.text(other)] = None
            if name in state.variables:
                found[self.fresh.unfit(other)] = None
        return [*found]

    def _proofs(self, node: Node) -> Iterator[Node]:
        for proven in (False, True):
            asked = replace(node[0], proven=proven)
            after = self._kept(asked, node[1], Stage.TEMPLATE, conditions.templates_filled)
            after = self._kept(asked, after, Stage.PROOF, conditions.proof_given)
            yield asked, tuple(without_denies(asked, state, conditions.workflow_denied) for state in after)

    def _digests(self, node: Node) -> Iterator[Node]:
        asked, states = node
        mentioned = {one for state in states for rule in state.rules for one in rule.digests or ()}
        another = next(one for one in map(some_digest, count()) if one not in mentioned)
        for digest in ("", another, *sorted(mentioned)) if asked.proven and mentioned else ("",):
            said = replace(asked, definition_digest=digest)
            after = self._kept(said, states, Stage.PROOF, conditions.digest_pinned)
            yield said, tuple(without_denies(said, state, conditions.digest_denied) for state in after)

    # --- when, from where, how often ---

    def _times(self, node: Node) -> Iterator[Node]:
        asked, states = node
        rules: list[Grant | Deny] = [rule for state in states for rule in state.rules]
        whens = frozenset(When(until=rule.when.until, daily=rule.when.daily) for rule in rules)
        if whens not in self._instants:
            self._count(_TIMES * len(whens) ** 2)
            self._instants[whens] = instants(whens, self._since)
        for now in self._instants[whens]:
            then = replace(asked, now=now)
            after = self._kept(then, states, Stage.TIME, conditions.time_right)
            yield then, tuple(without_denies(then, state, conditions.time_denied) for state in after)

    def _networks(self, node: Node) -> Iterator[Node]:
        asked, states = node
        rules: list[Grant | Deny] = [rule for state in states for rule in state.rules]
        lists = frozenset(rule.when.networks for rule in rules if rule.when.networks is not None)
        if lists not in self._addresses:
            self._count(sum(map(len, lists)) ** 2 // _NETWORKS)
            self._addresses[lists] = addresses(lists)
        for address in self._addresses[lists]:
            there = replace(asked, address=address)
            after = self._kept(there, states, Stage.NETWORK, conditions.network_right)
            yield there, tuple(without_denies(there, state, conditions.network_denied) for state in after)

    def _attempts(self, node: Node) -> Iterator[Cell]:
        asked, states = node
        most = {grant.attempts for state in states for grant, _ in state.grants if grant.attempts is not None}
        first = 1
        for last in (*sorted(most), None):
            opened = replace(asked, attempt=first)
            after = self._kept(opened, states, Stage.ATTEMPT, conditions.attempt_right)
            self._count()
            self._tell(after)
            yield Cell(request=opened, states=after, last_attempt=last)
            first = (last or 0) + 1

    # --- the grants that are left ---

    def _kept(
        self, asked: AccessRequest, states: tuple[State, ...], stage: Stage, holds: GrantHolds
    ) -> tuple[State, ...]:
        after = []
        for state in states:
            grants = tuple(pair for pair in state.grants if holds(asked, state, *pair))
            if self._note is not None:
                for grant, match in state.grants:
                    self._note(grant, match, stage)
            after.append(state if len(grants) == len(state.grants) else replace(state, grants=grants))
        return tuple(after)

    def _tell(self, states: tuple[State, ...]) -> None:
        if self._note is None:
            return
        for state in states:
            for grant, match in state.grants:
                self._note(grant, match, Stage.DENY if state.denies else Stage.ALLOWED)


def _matters(workload: Workload, denied: set[str]) -> bool:
    """To a certificate that fits it beside another workload: it binds a claim, or a deny names it."""
    return workload.name in denied or not {*workload.pattern.captures}.isdisjoint(BINDING)


def _mentioned(maps: tuple[ScopeMap, ...]) -> str:
    """Every text of the maps that a fresh one must differ from."""
    found: set[str] = set()
    for scope_map in maps:
        found |= {workload.pattern.text for workload in scope_map.workloads.values()}
        found |= {name for grant in scope_map.grants.values() for name in grant.workflows or ()}
        found |= {name for deny in scope_map.denies.values() for name in deny.workflows or ()}
        for scope in scope_map.scopes.values():
            found |= {*_texts(scope.block)}
    return "\n".join(sorted(found))


def _texts(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
