"""May this agent have this scope, now? Pure and total: every question has an answer, none raises.

The steps, in this order, so that a refusal never tells an agent about scopes that are not its own:

1. the scope is declared
2. the certificate fits a workload
3. some grant gives the scope to that workload
4. what the step claims is what its certificate says
5. no deny rule concerns it (deny wins)
6. a grant's conditions hold: workflow, digest, time, networks, attempts, templates
7. the matching grants together: the first in file order is the rule, the strictest bounds hold
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from broker.model import MIN_LEASE_LIFE, Bind, RuleRef
from broker.policy import fixes
from broker.policy.decision import AccessRequest, Allowed, Concurrent, Decision, Denial, Denied
from broker.policy.fingerprint import approval_digest
from broker.policy.index import Given, Index
from broker.policy.patterns import BINDING
from broker.policy.rules import Deny, Grant, Match, Scope
from broker.policy.templates import VALUE, fill
from broker.policy.windows import Phase

_NO_VALUES: Mapping[str, str] = {}
_NEAREST_OF = 64  # grants looked at to name the nearest: a refusal must stay cheap


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One condition that does not hold."""

    reason: Denial
    message: str
    fix: fixes.Fix


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A grant of the scope to one of the agent's workloads, and what keeps it from matching."""

    grant: Grant
    match: Match
    failures: tuple[Failure, ...]
    until: datetime | None  # end of its window or `until`, when open


def decide(index: Index, request: AccessRequest) -> Decision:
    """Answer one question, as the module says."""
    matches, name = index.matches(request.agent), request.scope
    # A scope that is not declared has no grant: it is looked for all the same, so that it takes as long as another's.
    reached = [(match, given) for match in matches if (given := index.given(name, match.workload.name)) is not None]
    scope = index.scopes.get(name)
    if scope is None or not reached:
        return _unreached(index, scope, request, matches)
    return _barred(index, scope, request, matches) or _granted(index, scope, request, reached)


def _unreached(index: Index, scope: Scope | None, request: AccessRequest, matches: tuple[Match, ...]) -> Denied:
    """Told to operators apart, and to the agent alike."""
    if not matches:  # 2
        denied = _unknown(Denial.NO_WORKLOAD, fixes.no_workload(request, index.trust_domains))
    else:  # 3
        denied = _no_grant(index, request, matches)
    if scope is None:  # 1
        return _unknown(Denial.UNKNOWN_SCOPE, fixes.unknown_scope(request.scope))
    return denied


def _barred(index: Index, scope: Scope, request: AccessRequest, matches: tuple[Match, ...]) -> Denied | None:
    if mismatch := claim_mismatch(request, matches):  # 4
        match, failure = mismatch
        return _refused(failure, match.workload.rule)
    if deny := denying(index, scope, request, matches):  # 5
        message, fix = fixes.deny_rule(deny, request, workflow_known=workflow_known(request, matches))
        return _refused(Failure(reason=Denial.DENY_RULE, message=message, fix=fix), deny.rule)
    return None


def _granted(index: Index, scope: Scope, request: AccessRequest, reached: list[tuple[Match, Given]]) -> Decision:
    found = [  # 6
        weigh(grant, match, scope, request) for match, given in reached for grant in given.of(request.workflow)
    ]
    matching = [candidate for candidate in found if not candidate.failures]
    matches = [match for match, _ in reached]
    if matching:
        decision = _allowed(scope, matching, request, matches)  # 7
        return _bound(index, scope, decision, request) if decision.approvals else decision
    nearest = min(candidates(index, scope, request, matches), key=distance)
    first = nearest.failures[0]
    return _refused(first, nearest.grant.rule, *(failure.fix for failure in nearest.failures[1:]))


def _allowed(scope: Scope, matching: list[Candidate], request: AccessRequest, reached: list[Match]) -> Allowed:
    chosen = matching[0]
    for one in matching:
        if one.grant.position < chosen.grant.position:
            chosen = one
    max_step, approvals = chosen.grant.max_step, scope.approvals
    concurrent, bind = Concurrent.SUPERSEDE, Bind.IDENTITY
    for one in matching:
        grant = one.grant
        max_step, approvals = min(max_step, grant.max_step), max(approvals, grant.approvals)
        if grant.concurrent is Concurrent.REFUSE:
            concurrent = Concurrent.REFUSE
        if grant.bind is Bind.KEY:
            bind = Bind.KEY
    return Allowed(
        scope=scope.name,
        provider=scope.provider,
        params=fill(scope.block, _values(chosen.match, request) if scope.variables else _NO_VALUES),
        tier=scope.tier,
        revocability=scope.revocability,
        ttl=scope.ttl,
        max_ttl=scope.max_ttl,
        max_step=max_step,
        until=_last([one.until for one in matching if one is chosen or _fills_alike(scope, one, chosen, request)]),
        concurrent=concurrent,
        rule=chosen.grant.rule,
        workload=chosen.match.workload.name,
        captures=dict(chosen.match.captures),
        fits=tuple([(match.workload.name, dict(match.captures)) for match in reached]),
        shared_hourly=scope.shared_hourly,
        on_lock=scope.on_lock,
        compensate=scope.compensate,
        bind=bind,
        approvals=approvals,
    )


def _bound(index: Index, scope: Scope, decision: Allowed, request: AccessRequest) -> Allowed:
    """With what an approval of it is bound to."""
    digest = approval_digest(
        scope,
        index.grants_for(scope.name, decision.workload, request.workflow),
        decision.params,
        workload=decision.workload,
        definition_digest=request.definition_digest if request.proven else "",
    )
    return replace(decision, approval_digest=digest)


def _fills_alike(scope: Scope, one: Candidate, other: Candidate, request: AccessRequest) -> bool:
    """Do both put the same into the scope's templates? A grant that puts in something else gives another credential."""
    if not scope.variables:
        return True
    mine, theirs = _values(one.match, request), _values(other.match, request)
    return all(mine[name] == theirs[name] for name in scope.variables)


def _last(ends: list[datetime | None]) -> datetime | None:
    """Each matching grant allows, so the last to end decides; None = never."""
    return None if None in ends else max(end for end in ends if end is not None)


def claim_mismatch(request: AccessRequest, matches: Iterable[Match]) -> tuple[Match, Failure] | None:
    """The first claim that differs from what the certificate says, in whichever workload it fits."""
    for match in matches:
        for name in BINDING:
            proven = match.captures.get(name)
            if proven is not None and proven != getattr(request, name):
                message, fix = fixes.claim_mismatch(name, proven, getattr(request, name))
                return match, Failure(reason=Denial.CLAIM_MISMATCH, message=message, fix=fix)
    return None


def workflow_known(request: AccessRequest, matches: Iterable[Match]) -> bool:
    """Is the workflow more than a claim? Else a step could talk itself out of a deny rule."""
    return request.proven or any("workflow" in match.captures for match in matches)


def denying(index: Index, scope: Scope, request: AccessRequest, matches: tuple[Match, ...]) -> Deny | None:
    """The first deny rule that concerns the request, or that cannot be evaluated."""
    for deny in index.denies_of(scope.name, matches):
        if deny.workflows is not None and workflow_known(request, matches) and request.workflow not in deny.workflows:
            continue
        known = request.proven and request.definition_digest  # a launcher that names none has proven none
        if deny.digests is not None and known and request.definition_digest not in deny.digests:
            continue
        if deny.when.reaches(request.address) is False:
            continue
        if deny.when.look(request.now)[0] in (Phase.OPEN, Phase.UNKNOWN):
            return deny
    return None


def candidates(index: Index, scope: Scope, request: AccessRequest, matches: Iterable[Match]) -> list[Candidate]:
    """What could have allowed it, whatever its workflow, in file order per workload; a bounded number."""
    pairs = [(grant, match) for match in matches for grant in index.grants_of(scope.name, match.workload.name)]
    named = [pair for pair in pairs if pair[0].workflows is None or request.workflow in pair[0].workflows]
    return [weigh(grant, match, scope, request) for grant, match in (named + pairs)[:_NEAREST_OF]]


def weigh(grant: Grant, match: Match, scope: Scope, request: AccessRequest) -> Candidate:
    """Every condition of one grant that does not hold."""
    failures: list[Failure] = []
    if grant.workflows is not None and request.workflow not in grant.workflows:
        failures.append(_failure(Denial.WORKFLOW_NOT_GRANTED, fixes.workflow(grant, request.workflow)))
    if grant.digests is not None:
        if not request.proven:
            failures.append(_failure(Denial.NEEDS_LAUNCHER, fixes.digest_unproven(grant)))
        elif request.definition_digest not in grant.digests:
            failures.append(_failure(Denial.DIGEST_NOT_PINNED, fixes.digest(grant, request.definition_digest)))
    phase, until = grant.when.look(request.now)
    if phase is not Phase.OPEN or (until is not None and until - request.now < MIN_LEASE_LIFE):
        failures.extend(_time_failures(grant, phase, request.now))
    if not grant.when.reaches(request.address):
        failures.append(_failure(Denial.SOURCE_NOT_ALLOWED, fixes.source(grant, request.address)))
    if grant.attempts is not None and request.attempt > grant.attempts:
        failures.append(_failure(Denial.ATTEMPTS_EXHAUSTED, fixes.attempts(grant, request.attempt)))
    if scope.variables:
        failures.extend(_template_failures(match, scope, request))
    return Candidate(grant=grant, match=match, failures=tuple(failures), until=until)


def _time_failures(grant: Grant, phase: Phase, now: datetime) -> Iterable[Failure]:
    """Of `until` and of the window, each for itself: a fix has to mend both."""
    if phase is Phase.UNKNOWN:
        yield _failure(Denial.OUTSIDE_WINDOW, fixes.not_evaluated(grant))
        return
    until, daily = grant.when.until, grant.when.daily
    if daily is not None and replace(grant.when, until=None).look(now)[0] is Phase.UNKNOWN:  # the end of the calendar
        daily = None
    if until is not None and now >= until:
        yield _failure(Denial.GRANT_OVER, fixes.over(grant, now))
    elif until is not None and until - now < MIN_LEASE_LIFE:
        yield _failure(Denial.TTL_TOO_SHORT, fixes.over_soon(grant, now))
    if daily is not None and not daily.contains(now):
        yield _failure(Denial.OUTSIDE_WINDOW, fixes.outside(grant, daily, now))
    elif daily is not None and daily.ends(now) - now < MIN_LEASE_LIFE:
        yield _failure(Denial.TTL_TOO_SHORT, fixes.closes_soon(grant, daily, now))


def _template_failures(match: Match, scope: Scope, request: AccessRequest) -> Iterable[Failure]:
    values = _values(match, request)
    for name in sorted(scope.variables):
        if name not in values:
            yield _failure(Denial.NEEDS_LAUNCHER, fixes.variable_unproven(scope, match.workload, name))
        elif not VALUE.fullmatch(values[name]):
            yield _failure(Denial.TEMPLATE_VALUE, fixes.variable_value(scope, name, values[name]))


def _values(match: Match, request: AccessRequest) -> dict[str, str]:
    """What templates may use: what the certificate says, and what a launcher said. Never a mere claim."""
    proven = {name: str(getattr(request, name)) for name in BINDING} if request.proven else {}
    return {**proven, **match.captures}


def distance(candidate: Candidate) -> tuple[bool, int, int]:
    """How far a grant is from matching: one for another workflow is further than any that names this one."""
    other = any(failure.reason is Denial.WORKFLOW_NOT_GRANTED for failure in candidate.failures)
    return other, len(candidate.failures), candidate.grant.position


def _failure(reason: Denial, words: fixes.Words) -> Failure:
    return Failure(reason=reason, message=words[0], fix=words[1])


def _refused(failure: Failure, rule: RuleRef, *more: fixes.Fix) -> Denied:
    fix = fixes.render((failure.fix, *more))
    return Denied(reason=failure.reason, message=failure.message, known=True, rule=rule, smallest_fix=fix)


def _unknown(reason: Denial, words: fixes.Words, rule: RuleRef | None = None) -> Denied:
    return Denied(reason=reason, message=words[0], known=False, rule=rule, smallest_fix=fixes.render(words[1:]))


def _no_grant(index: Index, request: AccessRequest, matches: tuple[Match, ...]) -> Denied:
    names = [match.workload.name for match in matches]
    near = index.first_grant_of(names)
    return _unknown(Denial.NO_GRANT, fixes.no_grant(near, names[0], request), near.rule if near else None)
