"""Leases and steps, as operators see them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from broker.leases.selection import Selection
from broker.model import Lease, LeaseState, Step
from broker.operators.views.paging import Found, Page, paged
from broker.store.base import Tx

LIVE = tuple(state for state in LeaseState if not state.terminal)


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseView:
    """A lease and the step that it is of."""

    lease: Lease
    step: Step | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StepView:
    """A step and how many of its leases are not terminal."""

    step: Step
    live: int


def leases(tx: Tx, selection: Selection, page: Page, *, ended_too: bool) -> Found[LeaseView]:
    """The newest first."""

    def view(lease: Lease) -> LeaseView | None:
        step = tx.step(lease.step_id)
        return LeaseView(lease=lease, step=step) if selection.of_lease(lease, step) else None

    return paged(
        page,
        read=lambda after, limit: tx.newest_leases(after=after, limit=limit, ended_too=ended_too),
        key=lambda lease: lease.id,
        view=view,
    )


def steps(tx: Tx, selection: Selection, page: Page, *, ended_too: bool) -> Found[StepView]:
    """The newest first. A scope selects the steps that named it; lease ids and providers select none."""
    scope, of_steps = selection.scope, replace(selection, scope="")
    if scope and of_steps == Selection():
        of_steps = replace(of_steps, everything=True)

    def view(step: Step) -> StepView | None:
        fits = of_steps.of_step(step) and (not scope or scope in step.scopes)
        return step_view(tx, step) if fits else None

    return paged(
        page,
        read=lambda after, limit: tx.step_page(after=after, limit=limit, ended_too=ended_too),
        key=lambda step: step.id,
        view=view,
    )


def lease_views(tx: Tx, rows: Iterable[Lease]) -> tuple[LeaseView, ...]:
    """Of these."""
    return tuple(LeaseView(lease=lease, step=tx.step(lease.step_id)) for lease in rows)


def step_view(tx: Tx, step: Step) -> StepView:
    """Of one."""
    return StepView(step=step, live=len(tx.leases_of(step.id, *LIVE)))
