"""A machine that cannot fail proves nothing: without one mechanism, the machine of test_machine_people notices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from broker.clock import Moment
from broker.guard.shared import Shared
from broker.leases import approving, committing, epoch, halting, issuing, minting, moves, orders, reaper, successors
from broker.leases.approving import Approving, Standing
from broker.leases.committing import Commit
from broker.leases.core import Core
from broker.leases.ending import Ending
from broker.leases.halting import Halt, Halting
from broker.model import Evidence, Lease, LeaseState
from broker.policy.decision import Allowed
from broker.store.approvals import Approval, ApprovalState, past_approval
from broker.store.base import Tx
from tests.invariants.test_machine import search
from tests.invariants.test_machine_people import PeopledMachine

Patch = pytest.MonkeyPatch


def an_approval_is_not_used_up(patch: Patch) -> None:
    def use(_: Approving, tx: Tx, standing: Standing, lease: Lease) -> Lease:
        return replace(lease, approval_id=standing.approval.id, approval_digest=standing.approval.digest)

    patch.setattr(Approving, "use", use)


def what_was_asked_for_counts_as_approved(patch: Patch) -> None:
    patch.setattr(Standing, "usable", property(lambda _: True))
    an_approval_is_not_used_up(patch)  # else the table itself refuses


def what_was_revoked_gives_its_approval_back(patch: Patch) -> None:
    end = Ending._end

    async def mutant(self: Ending, lease: Lease, state: LeaseState, evidence: Evidence) -> None:
        await end(self, lease, state, evidence)
        await self._core.store.write(lambda tx: approving.give_back(tx, lease, self._core.clock.moment()))

    patch.setattr(Ending, "_end", mutant)


def what_is_active_gives_its_approval_back(patch: Patch) -> None:
    activate = Commit._activate

    def mutant(self: Commit, tx: Tx, lease: Lease, *args: Any, **more: Any) -> Any:
        done = activate(self, tx, lease, *args, **more)
        approving.give_back(tx, lease, self._core.clock.moment())
        return done

    patch.setattr(Commit, "_activate", mutant)


def nothing_gives_an_approval_back(patch: Patch) -> None:
    patch.setattr(Core, "give_back", lambda self, tx, lease: self.guard.give_back(tx, lease))


def another_grant_is_as_good(patch: Patch) -> None:
    def why_over(approval: Approval, _: Allowed, now: Moment, __: str) -> ApprovalState | None:
        return ApprovalState.EXPIRED if past_approval(approval, now) >= timedelta(0) else None

    patch.setattr(approving, "_why_over", why_over)


def an_approval_has_no_end(patch: Patch) -> None:
    patch.setattr(approving, "past_approval", lambda *_: timedelta(seconds=-1))
    patch.setattr(reaper, "expired", lambda *_: [])


def an_approval_lives_by_the_wall_clock_alone(patch: Patch) -> None:
    """Once the machine has booted."""
    patch.setattr(approving, "go_on", _nothing)


def what_was_counted_goes_by_the_wall_clock(patch: Patch) -> None:
    """Once the machine has booted, and from the last charge on."""
    patch.setattr(epoch, "keep_time", _nothing)


def a_successor_forgets_its_approval(patch: Patch) -> None:
    link = successors.link_successor

    def mutant(*args: Any, **more: Any) -> Lease:
        return replace(link(*args, **more), approval_id="", approval_digest="")

    patch.setattr(issuing, "link_successor", mutant)


def a_successor_needs_nothing_approved(patch: Patch) -> None:
    """Whatever the map says by now."""
    approval = issuing.Issuing._approval

    def mutant(self: issuing.Issuing, *args: Any) -> Any:
        return None if args[-1].replaces else approval(self, *args)

    patch.setattr(issuing.Issuing, "_approval", mutant)


def a_freeze_is_not_seen_by_the_intent(patch: Patch) -> None:
    patch.setattr(issuing, "stopped", _nothing)


def a_freeze_is_not_seen_by_the_commit(patch: Patch) -> None:
    """Nor does it doom what is in flight: either is enough."""
    patch.setattr(committing, "stopped", _nothing)
    patch.setattr(orders, "stops_lease", lambda *_: False)


def a_freeze_is_not_seen_by_a_replay(patch: Patch) -> None:
    patch.setattr(minting, "stopped", _nothing)


def an_order_leaves_what_is_in_flight(patch: Patch) -> None:
    withdraw = moves.withdraw

    def but_for_mints(tx: Tx, row: Lease, **more: Any) -> bool:
        return row.state is not LeaseState.INTENT and withdraw(tx, row, **more)

    patch.setattr(orders, "moves", SimpleNamespace(withdraw=but_for_mints, end_step=moves.end_step))


def a_lock_ends_its_own_step_only(patch: Patch) -> None:
    def reach(_self: Halting, _tx: Tx, halt: Halt, _at: Any) -> list[Any]:
        return [halt.step]

    patch.setattr(Halting, "_reach", reach)


def a_lock_is_told_to_nobody(patch: Patch) -> None:
    patch.setattr(halting, "sound", _nothing)


def what_all_share_has_no_end(patch: Patch) -> None:
    patch.setattr(Shared, "filled", _nothing)


def _nothing(*_args: Any, **_more: Any) -> None:
    return None


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("mutate", "first"),
    [
        (an_approval_is_not_used_up, 1),
        (what_was_asked_for_counts_as_approved, 1),
        (what_was_revoked_gives_its_approval_back, 1),
        (what_is_active_gives_its_approval_back, 1),
        (nothing_gives_an_approval_back, 7),
        (another_grant_is_as_good, 16),
        (an_approval_has_no_end, 4),
        (an_approval_lives_by_the_wall_clock_alone, 4),
        (what_was_counted_goes_by_the_wall_clock, 1),
        (a_successor_forgets_its_approval, 9),
        (a_successor_needs_nothing_approved, 1),
        (a_freeze_is_not_seen_by_the_intent, 1),
        (a_freeze_is_not_seen_by_the_commit, 2),
        (a_freeze_is_not_seen_by_a_replay, 1),
        (an_order_leaves_what_is_in_flight, 4),
        (a_lock_ends_its_own_step_only, 1),
        (a_lock_is_told_to_nobody, 1),
        (what_all_share_has_no_end, 1),
    ],
)
def test_the_machine_with_people_notices_when(mutate: Callable[[Patch], None], first: int, monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        search(first, PeopledMachine)
