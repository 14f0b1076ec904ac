"""What policy decided, as an agent is told it and as the journal keeps it."""

from __future__ import annotations

from broker.errors import BrokerError, Reason, access_denied
from broker.model import JsonValue, Step, Verdict
from broker.policy.decision import AccessRequest, Allowed, Denial, Denied
from broker.store.approvals import Approval


def about(step: Step, scope: str) -> dict[str, JsonValue]:
    """Which execution and which scope, as fields of a journal record."""
    return {
        "agent": step.key.agent,
        "workflow": step.key.workflow,
        "run": step.key.run,
        "step": step.key.step,
        "step_id": step.id,
        "scope": scope,
    }


def circumstances(step: Step, asked: AccessRequest) -> dict[str, JsonValue]:
    """What else the decision went by: with it a record can be decided again from the journal alone.

    The digest is what the launcher said, also where it is no longer believed.
    """
    return {
        "attempt": asked.attempt,
        "address": asked.address,
        "proven": asked.proven,
        "opened_by": step.opened_by,
        "definition_digest": step.definition_digest,
    }


def must_be_named(step: Step, scope: str) -> None:
    """Raises SCOPE_NOT_NAMED."""
    if scope not in step.scopes:
        raise BrokerError(Reason.SCOPE_NOT_NAMED, "the scope was not named at BeginStep", about=about(step, scope))


def refused(decision: Denied, step: Step, asked: AccessRequest) -> BrokerError:
    """Rule and fix only for scopes that some grant gives to this agent (DESIGN section 8)."""
    told = {
        "denial": decision.reason.value,
        "rule": str(decision.rule or ""),
        "smallest_fix": decision.smallest_fix,
    }
    details = about(step, asked.scope) | circumstances(step, asked) | told | {"why": decision.message}
    if not decision.known:
        error = access_denied()
        error.about = details
        return error
    reason = Reason.TTL_TOO_SHORT if decision.reason is Denial.TTL_TOO_SHORT else Reason.SCOPE_REFUSED
    return BrokerError(reason, decision.message, metadata=told, about=details)


def needs_approval(
    allowed: Allowed, step: Step, asked: AccessRequest, approval: Approval, *, given: int
) -> BrokerError:
    """The grant is there; so many operators have not said yes. It can be waited for by asking CheckAccess."""
    told = {
        "approval_id": approval.id,
        "approvals_needed": str(approval.needed),
        "approvals_given": str(given),
        "approval_expires_at": approval.expires_at.isoformat(),
        "rule": str(allowed.rule),
    }
    return BrokerError(
        Reason.NEEDS_APPROVAL,
        "operators must approve this scope first; ask again when they have",
        verdict=Verdict.NEEDS_APPROVAL,
        metadata=told,
        about=about(step, asked.scope) | circumstances(step, asked) | told,
    )
