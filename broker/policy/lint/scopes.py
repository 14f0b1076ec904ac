"""Scopes one by one: not reached, the same twice, too long a life, too easily had, living nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

from broker.model import Tier
from broker.policy.durations import format_duration
from broker.policy.language.parts import TIER_ORDER
from broker.policy.lint.finding import Finding, Level, Rule, at, listed
from broker.policy.lint.subject import Subject
from broker.policy.problems import show
from broker.policy.rules import Scope

# How long a stolen credential may be worth stealing. Successors give a long step a new one at 2/3 of its life, so a
# longer life only saves mints: 12h is a working day, 4h what the cloud's consoles take for a person's session, and
# 1h the longest that AWS gives a chained role.
LONGEST_TTL = {Tier.LOW: timedelta(hours=12), Tier.ELEVATED: timedelta(hours=4), Tier.HIGH: timedelta(hours=1)}
LONGEST_MAX_TTL = timedelta(hours=24)  # default of a grant's max_step: no step needs successors for longer

UNUSED = Rule(
    id="unused-scope",
    level=Level.WARNING,
    title="A scope that no grant gives",
    help="Grant it, or remove it: what nobody may have is what the next grant gives by mistake.",
)
DUPLICATE = Rule(
    id="duplicate-scope",
    level=Level.WARNING,
    title="The same credential under two names",
    help="Let one name stand for one power: tiers, approvals, budgets, denies and nevers of the one do not bind the other.",
)
LONG_TTL = Rule(
    id="long-ttl",
    level=Level.WARNING,
    title="A credential that lives long for its tier",
    help="Shorten ttl, and give a long step successors by max_ttl: a stolen credential works until its ttl ends or it is "
    f"revoked. More than {format_duration(LONGEST_TTL[Tier.HIGH])} for high, {format_duration(LONGEST_TTL[Tier.ELEVATED])} "
    f"for elevated and {format_duration(LONGEST_TTL[Tier.LOW])} for low is long.",
)
LONG_MAX_TTL = Rule(
    id="long-max-ttl",
    level=Level.WARNING,
    title="Successors for longer than a step lives",
    help=f"Shorten max_ttl: a step lives {format_duration(LONGEST_MAX_TTL)} unless its grant's max_step says more, and a "
    "step that needs days is better cut into several.",
)
NO_APPROVAL = Rule(
    id="high-without-approval",
    level=Level.WARNING,
    title="A high scope that nobody has to approve",
    help="Set approvals on the scope, on tier high under tiers:, or on the grant; or lower the tier if it is not that "
    "dangerous.",
)
UNDECLARED = Rule(
    id="undeclared-residency",
    level=Level.WARNING,
    title="A residency that is only a word",
    help="Declare it with its regions under residency:, then the regions of the provider's block are checked against it.",
)
NOWHERE = Rule(
    id="high-without-residency",
    level=Level.NOTE,
    title="A high scope that does not say where its data lives",
    help="Say residency, so that its regions are checked against those declared under residency:.",
)

RULES = (UNUSED, DUPLICATE, LONG_TTL, LONG_MAX_TTL, NO_APPROVAL, UNDECLARED, NOWHERE)


def check(subject: Subject) -> Iterator[Finding]:
    """Every rule of this module."""
    granted = {name for grant in subject.map.grants.values() for name in grant.scopes}
    for scope in subject.map.scopes.values():
        if scope.name not in granted:
            yield at(scope.rule, UNUSED, f"no grant gives scope {show(scope.name)}")
        yield from _long(subject, scope)
        yield from _residency(subject, scope)
    yield from _duplicates(subject)
    yield from _unapproved(subject)


def _long(subject: Subject, scope: Scope) -> Iterator[Finding]:
    longest = LONGEST_TTL[scope.tier]
    if scope.ttl > longest:
        message = f"scope {show(scope.name)} lives {format_duration(scope.ttl)}: more than {format_duration(longest)} is long for tier {scope.tier.value}"
        yield at(subject.of_scope(scope, "ttl"), LONG_TTL, message)
    if scope.max_ttl > LONGEST_MAX_TTL:
        message = f"scope {show(scope.name)} has successors for {format_duration(scope.max_ttl)}, more than {format_duration(LONGEST_MAX_TTL)}"
        yield at(subject.of_scope(scope, "max_ttl"), LONG_MAX_TTL, message)


def _residency(subject: Subject, scope: Scope) -> Iterator[Finding]:
    if scope.residency and not subject.map.residency:
        message = f"scope {show(scope.name)} is to stay in {listed(list(scope.residency))}, and the map says nowhere what that is"
        yield at(subject.of_scope(scope, "residency"), UNDECLARED, message)
    if scope.tier is Tier.HIGH and subject.map.residency and not scope.residency:
        yield at(scope.rule, NOWHERE, f"scope {show(scope.name)} is high, and does not say where its data lives")


def _duplicates(subject: Subject) -> Iterator[Finding]:
    first: dict[str, Scope] = {}
    for scope in subject.map.scopes.values():
        power = json.dumps([scope.provider, scope.block], sort_keys=True)
        other = first.setdefault(power, scope)
        if other is scope:
            continue
        message = f"scope {show(scope.name)} gives the same as {other.rule}"
        if scope.tier is not other.tier:
            lower, higher = sorted((scope, other), key=lambda one: TIER_ORDER[one.tier])
            message += f": whoever has {lower.name} ({lower.tier.value}) needs no {higher.name} ({higher.tier.value})"
        yield at(subject.of_scope(scope, scope.provider), DUPLICATE, message)


def _unapproved(subject: Subject) -> Iterator[Finding]:
    freely: dict[str, list[str]] = {}
    for grant in subject.map.grants.values():
        for scope in subject.scopes_of(grant):
            if scope.tier is Tier.HIGH and not scope.approvals and not grant.approvals:
                freely.setdefault(scope.name, []).append(grant.rule.name)
    for name, grants in freely.items():
        scope = subject.map.scopes[name]
        message = f"scope {show(name)} is high, and given without an operator's yes by {listed(grants)}"
        yield at(subject.of_scope(scope, "tier"), NO_APPROVAL, message)
