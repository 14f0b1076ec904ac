"""Approvals and the scope map, as operators see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from broker.leases.selection import Selection
from broker.operators.views.paging import Found, Page, paged
from broker.policy.live.holder import Policies
from broker.store.approvals import Approval, ApprovalState, Vote
from broker.store.base import Tx

WhyNot = Callable[[Tx, Approval, Sequence[Vote]], str]  # may the caller decide it? "" for yes


@dataclass(frozen=True, kw_only=True, slots=True)
class ApprovalView:
    """What is asked, what was said, and whether the one who looks may say something."""

    approval: Approval
    votes: Sequence[Vote]
    owners: Sequence[str]  # of its workload and its launcher, in today's map
    you_may_not: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MapView:
    """The scope map in force."""

    file: str
    digest: str
    generation: int
    loaded_at: datetime | None
    serial: int
    signers: Sequence[str]  # names of keys
    problems: Sequence[str]  # of what is on disk
    teams_refused: Sequence[str]
    workloads: int
    scopes: int
    grants: int


def approvals(
    tx: Tx, selection: Selection, page: Page, *, decided_too: bool, policies: Policies, why_not: WhyNot
) -> Found[ApprovalView]:
    """The newest first; those that wait, unless `decided_too`."""
    states = () if decided_too else (ApprovalState.PENDING,)

    def view(approval: Approval) -> ApprovalView | None:
        if not _fits(approval, selection):
            return None
        return approval_view(tx, approval, policies=policies, why_not=why_not)

    return paged(
        page,
        read=lambda after, limit: tx.approvals(*states, after=after, limit=limit),
        key=lambda approval: approval.id,
        view=view,
    )


def one_approval(tx: Tx, approval_id: str, *, policies: Policies, why_not: WhyNot) -> Found[ApprovalView]:
    """The one of this id, decided or not; none when there is none."""
    found = tx.approval(approval_id)
    return Found(rows=() if found is None else (approval_view(tx, found, policies=policies, why_not=why_not),))


def approval_view(tx: Tx, approval: Approval, *, policies: Policies, why_not: WhyNot) -> ApprovalView:
    """Of one."""
    votes = tx.votes(approval.id)
    owners = sorted(policies.map.owners_of(approval.workload, approval.launcher))
    return ApprovalView(approval=approval, votes=votes, owners=owners, you_may_not=why_not(tx, approval, votes))


def scope_map(tx: Tx, policies: Policies) -> MapView:
    """With what is kept of its signatures."""
    found, kept = policies.map, tx.kept_map()
    return MapView(
        file=found.file,
        digest=found.digest,
        generation=policies.generation,
        loaded_at=kept.loaded_at if kept else None,
        serial=kept.serial if kept else 0,
        signers=kept.signers if kept else (),
        problems=policies.last_problem.splitlines(),
        teams_refused=sorted(policies.teams_refused),
        workloads=len(found.workloads),
        scopes=len(found.scopes),
        grants=len(found.grants),
    )


def _fits(approval: Approval, selection: Selection) -> bool:
    key = approval.key
    wanted = (selection.agent, selection.workflow, selection.run, selection.step, selection.scope)
    had = (key.agent, key.workflow, key.run, key.step, approval.scope)
    if selection.provider or selection.leases:
        return False  # it knows neither
    return all(one in ("", other) for one, other in zip(wanted, had, strict=True))
