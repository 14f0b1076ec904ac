"""What today's map says of a step and of its leases, whenever it is asked again. Pure.

What a launcher said is proven for as long as the map lets it say so. When its rule is gone, nobody vouches for it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from broker.clock import Moment
from broker.model import MIN_LEASE_LIFE, Bind, Lease, Step, StepKey, past_deadline
from broker.policy.decide import denying
from broker.policy.decision import AccessRequest, Allowed, Denial, Denied
from broker.policy.launch import Launch
from broker.policy.scope_map import ScopeMap


def launch_of(key: StepKey, *, launcher: str, definition_digest: str, now: datetime) -> Launch:
    """May the launcher open this step, and say this of it?"""
    return Launch(
        launcher=launcher,
        agent=key.agent,
        workflow=key.workflow,
        run=key.run,
        step=key.step,
        definition_digest=definition_digest,
        now=now,
    )


def is_proven(scope_map: ScopeMap, step: Step, now: datetime) -> bool:
    """Were the step's names and definition said by a launcher that may say them today?"""
    if not step.proven:
        return False
    asked = launch_of(step.key, launcher=step.opened_by, definition_digest=step.definition_digest, now=now)
    return scope_map.may_launch(asked) is not None


def question(scope_map: ScopeMap, step: Step, scope: str, *, address: str, now: datetime) -> AccessRequest:
    """May the agent of this open step have this scope? `address`: where it asks from."""
    proven = is_proven(scope_map, step, now)
    return AccessRequest(
        agent=step.key.agent,
        workflow=step.key.workflow,
        run=step.key.run,
        step=step.key.step,
        scope=scope,
        now=now,
        proven=proven,
        definition_digest=step.definition_digest if proven else "",
        address=address,
        attempt=step.attempt,
    )


def held_to(scope_map: ScopeMap, step: Step, *, address: str, now: datetime) -> Bind:
    """The strictest that today's grants say of the scopes that it named; never less than it is held to already."""
    decisions = (scope_map.decide(question(scope_map, step, name, address=address, now=now)) for name in step.scopes)
    return Bind.strictest([step.bind, *(one.bind for one in decisions if isinstance(one, Allowed))])


def left_of(step: Step, allowed: Allowed, now: Moment) -> timedelta:
    """Until the step's deadline. That knows the grants that matched when it was opened; later ones bound it as well."""
    beyond = step.deadline_at - step.opened_at - allowed.max_step
    return -past_deadline(step, now) - max(beyond, timedelta(0))


def ends_at(allowed: Allowed, *, at: datetime, left: timedelta, first: datetime | None = None) -> datetime:
    """Of what is minted `at`: min(at + ttl, first mint + max_ttl, step deadline, end of the grant's window)."""
    bounds = [at + allowed.ttl, (first or at) + allowed.max_ttl, at + left]
    if allowed.until is not None:
        bounds.append(allowed.until)
    return min(bounds)


def still_given(scope_map: ScopeMap, step: Step, lease: Lease, now: datetime) -> bool:
    """Would today's map give this very credential, and for as long?

    A grant that closes within a minute gives nothing new, but what it gave ends with it by itself. Whatever would live
    longer than that was given until a later end.
    """
    decision = scope_map.decide(question(scope_map, step, lease.scope, address=lease.address, now=now))
    if isinstance(decision, Denied):
        return decision.reason is Denial.TTL_TOO_SHORT and lease.expires_at - now < MIN_LEASE_LIFE
    return (
        (decision.provider, decision.params) == (lease.provider, lease.params)
        and (decision.tier, decision.revocability) == (lease.tier, lease.revocability)
        and _as_approved(decision, lease)
        and (decision.bind is Bind.IDENTITY or step.began_with(lease.certificate))
        and lease.expires_at <= lease.intent_at + decision.ttl
        and (decision.until is None or lease.expires_at <= decision.until)
    )


def _as_approved(decision: Allowed, lease: Lease) -> bool:
    """What needs approval was approved, and for this very grant, scope and tier."""
    return not decision.approvals or (bool(lease.approval_id) and lease.approval_digest == decision.approval_digest)


def is_denied(scope_map: ScopeMap, step: Step, lease: Lease, now: datetime) -> bool:
    """Does a deny rule of today's map concern it, whatever else refuses it first?

    Of a scope that the map does not declare no rule can speak.
    """
    scope = scope_map.scopes.get(lease.scope)
    if scope is None:
        return False
    asked = question(scope_map, step, lease.scope, address=lease.address, now=now)
    return denying(scope_map.index, scope, asked, scope_map.index.matches(asked.agent)) is not None
