"""A machine that cannot fail proves nothing: without one mechanism, the state machine of test_machine notices.

In a file of its own, so that two processes share the work.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.leases import epoch
from broker.leases.committing import Commit
from broker.leases.core import Core
from broker.leases.ending import Ending
from broker.leases.lane import RevocationLane
from broker.leases.reaper import Reaper
from broker.model import Agent, EndReason, Evidence, Lease, LeaseState, Step
from tests.fakes.memory_store import MemoryTx
from tests.invariants.test_machine import search


def what_failed_was_not_minted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Commit, "in_doubt", Commit.void)


def a_yes_is_believed(patch: pytest.MonkeyPatch) -> None:
    async def progressed(self: Ending, lease: Lease, _: object) -> None:
        await self._end(lease, LeaseState.REVOKED, Evidence.SEEN_DEAD)

    patch.setattr(Ending, "_progressed", progressed)


def the_wall_clock_is_evidence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Core, "surely", lambda self, _: self.clock.now())


def what_was_never_claimed_is_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryTx, "unclaimed", lambda *_: [])


def silence_is_not_heard(patch: pytest.MonkeyPatch) -> None:
    why_ended = Reaper._why_ended

    def deaf(self: Reaper, step: Step) -> EndReason | None:
        reason = why_ended(self, step)
        return None if reason is EndReason.SILENT else reason

    patch.setattr(Reaper, "_why_ended", deaf)


def a_find_is_killed_before_it_is_recorded(patch: pytest.MonkeyPatch) -> None:
    """And every crash comes in between: the charge of a credential that existed is given back."""
    end = Ending._end

    async def forgetful(self: Ending, lease: Lease, state: LeaseState, evidence: Evidence) -> None:
        if lease.state is LeaseState.IN_DOUBT and state is LeaseState.REVOKED:
            state, evidence = LeaseState.VOID, Evidence.NOT_MINTED
        await end(self, lease, state, evidence)

    patch.setattr(Ending, "_end", forgetful)


def what_a_predecessor_left_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(epoch, "_adopt", lambda *_: (0, 0))


def the_budget_is_not_charged(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryTx, "put_guard_row", lambda *_: None)


def what_is_due_waits_a_minute(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RevocationLane, "step", _nothing)


async def _nothing(_self: RevocationLane) -> int:
    return 0


def the_commit_does_not_look_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Commit, "_must_not_live", lambda *_, **__: None)
    patch.setattr(MemoryTx, "doom", lambda *_, **__: True)


def what_has_not_started_is_silent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Core, "silence_bound", lambda self, _: self.timings.silence_bound)


def a_launcher_owns_what_it_opened(patch: pytest.MonkeyPatch) -> None:
    own = Core.own

    def mutant(self: Core, who: Agent, step: Step | None) -> Step:
        return step if step is not None and step.opened_by == who.spiffe_id else own(self, who, step)

    patch.setattr(Core, "own", mutant)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("mutate", "first"),
    [
        (what_has_not_started_is_silent, 1),
        (a_launcher_owns_what_it_opened, 2),
        (what_failed_was_not_minted, 3),
        (a_yes_is_believed, 1),
        (the_wall_clock_is_evidence, 1),
        (the_commit_does_not_look_again, 1),
        (what_was_never_claimed_is_kept, 1),
        (silence_is_not_heard, 1),
        (a_find_is_killed_before_it_is_recorded, 1),
        (what_a_predecessor_left_is_forgotten, 1),
        (the_budget_is_not_charged, 2),
        (what_is_due_waits_a_minute, 1),
    ],
)
def test_the_machine_notices_when(
    mutate: Callable[[pytest.MonkeyPatch], None], first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        search(first)
