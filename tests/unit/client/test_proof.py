"""How long a step waits for the proof that its credentials are dead, and when asking again can help."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from stepcred._calls import Calls
from stepcred._flow import Call, Pause
from stepcred._status import CallFailed
from stepcred._step_core import StepCore
from stepcred.v1 import broker_pb2, lease_pb2

WAIT = 20.0  # seconds
DEAD = lease_pb2.EVIDENCE_SEEN_DEAD


class Ending:
    """A step's end against a broker whose answers are given; time passes in pauses alone."""

    def __init__(self, answers: Iterable[Any], *, wait: float = WAIT) -> None:
        self.now = 0.0
        self.asked: list[float] = []  # the patience of each request, in seconds
        broker = Calls(addr="b", timeout=5, monotonic=lambda: self.now)
        self.step = StepCore(broker=broker, wait=wait, handle="h", alive=True)
        self._answers = iter(answers)
        self._play()

    def _play(self) -> None:
        flow, answer = self.step.end(), None
        try:
            while True:
                wanted = flow.throw(answer) if isinstance(answer, Exception) else flow.send(answer)
                answer = None
                if isinstance(wanted, Pause):
                    self.now += wanted.seconds
                elif isinstance(wanted, Call):
                    self.asked.append(wanted.request.wait.ToTimedelta().total_seconds())
                    answer = next(self._answers)
        except StopIteration:
            pass


def answer(*leases: tuple[int, int]) -> broker_pb2.EndStepResponse:
    """(revocability, evidence) of each."""
    told = [lease_pb2.LeaseOutcome(lease_id="l", revocability=how, evidence=proof) for how, proof in leases]  # type: ignore[arg-type]
    return broker_pb2.EndStepResponse(leases=told, all_proven=all(proof for _, proof in leases))


CROWDED = answer((lease_pb2.REVOCABILITY_EXACT, DEAD), (lease_pb2.REVOCABILITY_EXACT, 0))
PROVEN = answer((lease_pb2.REVOCABILITY_EXACT, DEAD), (lease_pb2.REVOCABILITY_EXACT, DEAD))


def test_a_crowded_broker_is_asked_again_with_what_is_left_of_the_patience() -> None:
    ending = Ending([CROWDED, CROWDED, PROVEN])
    assert ending.step.all_proven
    assert ending.asked == [pytest.approx(left) for left in (20.0, 19.9, 19.7)]


def test_what_is_proven_is_not_asked_again() -> None:
    assert Ending([PROVEN]).asked == [WAIT]


@pytest.mark.parametrize("how", [lease_pb2.REVOCABILITY_DENY_POLICY, lease_pb2.REVOCABILITY_EXPIRY_ONLY])
def test_what_only_time_ends_is_not_waited_for(how: int) -> None:
    assert Ending([answer((how, 0))]).asked == [WAIT]


def test_no_longer_than_it_was_to_wait() -> None:
    ending = Ending([CROWDED] * 99, wait=2.0)
    assert ending.now <= 2.0
    assert not ending.step.all_proven
    assert ending.asked == sorted(ending.asked, reverse=True)
    assert Ending([CROWDED], wait=0.0).asked == [0.0]


def test_who_cannot_be_asked_again_leaves_what_is_known() -> None:
    failed = CallFailed("ABORTED", "no", ())
    ending = Ending([CROWDED, failed])
    assert len(ending.step.outcomes) == 2
    assert not ending.step.all_proven
