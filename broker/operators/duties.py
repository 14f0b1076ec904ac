"""Which duties are kept apart. Pure: each answers with the refusal, or None; whoever asks journals and raises it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from broker.clock import Moment
from broker.errors import BrokerError, Reason
from broker.operators.model import Operator, Role
from broker.store.approvals import Approval, ApprovalState, Vote, past_approval
from broker.store.halts import Review

# What an operator may set aside when nobody else is there: who it is to the workload, and what it did before. Never the
# role, nor the second factor.
BREAK_GLASS = frozenset({Reason.OWNER_MAY_NOT, Reason.OTHER_OPERATOR_NEEDED})


@dataclass(frozen=True, kw_only=True, slots=True)
class Signers:
    """Whose signatures the scope map in force carries, and what it says of them."""

    keys: frozenset[str]  # names in [scopes.keys] of those that signed it; empty: it is not signed
    owners: Mapping[str, str]  # key → operator; a key that is not in it is nobody's
    may_approve: bool = True  # the map's `approvals: {signers: …}`


def must_have(operator: Operator, role: Role) -> BrokerError | None:
    """ROLE_MISSING."""
    if operator.has(role):
        return None
    return BrokerError(Reason.ROLE_MISSING, f"this takes an operator with the role {role.value}")


def may_decide(
    operator: Operator,
    approval: Approval,
    *,
    votes: Sequence[Vote],
    owners: Iterable[str],
    signers: Signers,
    seen: str,
    today: str | None,
    now: Moment,
) -> BrokerError | None:
    """May this operator say yes or no to this?

    Args:
        operator: who would.
        approval: the row, of the same transaction as the vote.
        votes: on it, so far.
        owners: of its workload and its launcher, in today's map.
        signers: of today's map.
        seen: the digest that the operator was shown.
        today: the digest of what today's map gives; None when it gives nothing.
        now: the moment.

    In this order: the role; who it is to the workload; who it is to the map; what became of the request.
    """
    if error := may_approve(operator, approval, owners=owners, signers=signers):
        return error
    if error := _undecided(approval, now):
        return error
    if {seen, today} != {approval.digest}:
        return BrokerError(Reason.APPROVAL_CHANGED, "what it asks for is not what you saw; look again, and decide anew")
    if any(vote.operator == operator.name for vote in votes):
        return BrokerError(Reason.VOTED_ALREADY, "you have decided on this already")
    return None


def may_approve(
    operator: Operator, approval: Approval, *, owners: Iterable[str], signers: Signers
) -> BrokerError | None:
    """Could this operator's yes count, whatever became of the request? Asked again of every yes when it is counted."""
    if (error := must_have(operator, Role.APPROVER)) or (error := _no_owner(operator, approval, owners)):
        return error
    return _by_signers(operator, signers)


def against_reset(
    operator: Operator, *, owners: Iterable[str], twice: bool, last_reset_by: str
) -> Sequence[BrokerError]:
    """All that speaks against this operator's reset of a guard key, the gravest first.

    Args:
        operator: who would.
        owners: of the key's workloads, and of the launcher of its latest step.
        twice: the key may be opened twice in a row by one operator.
        last_reset_by: the operator that reset it last; "" when nobody did.
    """
    found = [must_have(operator, Role.RESPONDER)]
    if operator.owns(owners):
        found.append(_owner())
    if not twice and operator.name == last_reset_by:
        text = "you reset it last, and it is used up again; this takes another operator"
        found.append(BrokerError(Reason.OTHER_OPERATOR_NEEDED, text))
    return [error for error in found if error is not None]


def may_reset(against: Sequence[BrokerError], *, break_glass: bool) -> BrokerError | None:
    """The first of these that break-glass does not set aside."""
    return next((error for error in against if not (break_glass and error.reason in BREAK_GLASS)), None)


def may_sign(operator: Operator, review: Review) -> BrokerError | None:
    """May this operator close what another one opened?"""
    if error := must_have(operator, Role.RESPONDER):
        return error
    if operator.name == review.by:
        return BrokerError(Reason.OTHER_OPERATOR_NEEDED, "nobody signs for what he did himself")
    return None


def why_off(signers: Signers) -> str:
    """Why nothing is approved under the map in force, nor used that was; "" when nothing speaks against it."""
    unknown = sorted(signers.keys - signers.owners.keys())
    if unknown:
        return f"nothing can be approved under this scope map: no operator has the key {unknown[0]} that signed it"
    if not signers.may_approve and not signers.keys:
        return "nothing can be approved under this scope map: it keeps its signers from approving, and is not signed"
    return ""


def _owner() -> BrokerError:
    return BrokerError(Reason.OWNER_MAY_NOT, "you are an owner of the workload or of its launcher")


def _no_owner(operator: Operator, approval: Approval, owners: Iterable[str]) -> BrokerError | None:
    """Nor the agent or the launcher itself, should its identity ever get an operator's certificate."""
    asks = {approval.key.agent, approval.launcher}
    return _owner() if operator.owns(owners) or asks.intersection(operator.ids) else None


def _by_signers(operator: Operator, signers: Signers) -> BrokerError | None:
    if why := why_off(signers):
        return BrokerError(Reason.SIGNER_UNKNOWN, why)
    if signers.may_approve:
        return None
    if any(signers.owners[key] == operator.name for key in signers.keys):
        return BrokerError(
            Reason.SIGNER_MAY_NOT, "you signed the scope map in force, which keeps its signers from approving"
        )
    return None


def _undecided(approval: Approval, now: Moment) -> BrokerError | None:
    state = approval.state
    if state is ApprovalState.REPLACED:
        return BrokerError(Reason.APPROVAL_CHANGED, "the grant, scope or tier is another one by now")
    if state is ApprovalState.EXPIRED or (
        state is ApprovalState.PENDING and past_approval(approval, now).total_seconds() >= 0
    ):
        return BrokerError(Reason.APPROVAL_EXPIRED, "it was not decided in time; the step may ask again")
    if state is not ApprovalState.PENDING:
        return BrokerError(Reason.APPROVAL_DECIDED, "it is decided already")
    return None
