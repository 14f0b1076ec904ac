"""What one step was refused, so that no loop around us asks the broker the same again and again. No I/O.

The one rule, for every call about a step (docs/sdk.md):

1. `NEVER` is final: the same step is answered the same for that scope, from here, without a request.
2. `RETRY_AFTER`: nothing is sent before that time is over; until then the answer comes from here, with what is left.
3. Where another answer is possible although nothing says when (`PASSING`, and waiting for an approval), the second
   request may go at once, and the pause before each further one grows from 2 s to 15 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeAlias

from stepcred._errors import BrokerUnavailable, Refused, Verdict

FIRST_PAUSE = 2.0  # seconds
LONGEST_PAUSE = 15.0
GROWTH = 1.5
TICK = 0.001  # seconds; a clock that has not moved on by the last bit would answer from here once more

# Refused with NEVER, and still another request can have another answer. Whatever is not listed is final.
PASSING = frozenset(
    {
        "FROZEN",  # until operators let go
        "NOT_REPLACEABLE",  # until two thirds of its life are over
        # About the one request id, and a new one is taken for each request:
        "REPLAY_LOST",
        "LEASE_ENDED",
        "REQUEST_ID_REUSED",
        "INVALID_REQUEST_ID",
        # About the certificate, and it is renewed while a step runs:
        "NO_CLIENT_CERTIFICATE",
        "CERTIFICATE_INVALID",
        "CERTIFICATE_EXPIRED",
        "CERTIFICATE_REVOKED",
        "SPIFFE_ID_INVALID",
        "TRUST_DOMAIN_FOREIGN",
        # About the broker, not about us:
        "INTERNAL",
        "STORE_UNAVAILABLE",
        "EPOCH_LOST",
    }
)
# Final for what was passed along; the scope may be had with something else, or without.
_OF_THE_INPUT = frozenset({"INVALID_ARGUMENT", "SUCCESSORS_EXHAUSTED"})
# The same of a successor. Of a lease that is not ours nothing else is told: what is denied may be the lease, not the
# scope. And a chain that has reached its max_ttl, which is the ttl unless the scope says more, is no end of the scope.
_OF_THE_OLDER = frozenset({"ACCESS_DENIED", "TTL_TOO_SHORT"})

Answer: TypeAlias = Refused | BrokerUnavailable


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What is passed along with the question for a credential."""

    replaces: str = ""
    public_key: str = ""
    csr: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """`about` a scope, or a lease."""

    method: str
    about: str
    given: Given = field(default_factory=Given)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Memory:
    answer: Answer
    until: float  # monotonic seconds; infinite = final
    in_a_row: int = 1


def is_final(refused: Refused) -> bool:
    """Asking again cannot help, for as long as the step lives."""
    return refused.verdict is Verdict.NEVER and refused.retry_after is None and refused.reason not in PASSING


def pause_after(answers: int) -> float:
    """Seconds before the next question, after so many answers in a row that helped nothing."""
    return float(min(FIRST_PAUSE * GROWTH ** min(answers - 1, 20), LONGEST_PAUSE))


class Refusals:
    """Of one step. Two threads that ask at once may both be answered by the broker, once."""

    def __init__(self) -> None:
        self._whatever: dict[tuple[str, str], _Memory] = {}  # (method, about) → whatever is passed along
        self._exactly: dict[Question, Refused] = {}  # final for what was passed along

    def must_be_asked(self, question: Question, now: float) -> None:
        """Raises the answer that stands already."""
        known = self._whatever.get((question.method, question.about))
        if known is not None and now < known.until:
            raise known.answer.again(None if known.until == math.inf else known.until - now)
        if (refused := self._exactly.get(question)) is not None:
            raise refused.again(None)

    def pause(self, question: Question, now: float) -> float:
        """Seconds before it may be asked again; infinite = never."""
        known = self._whatever.get((question.method, question.about))
        return known.until - now + TICK if known is not None and now < known.until else 0.0

    def heard(self, question: Question, answer: Answer, now: float) -> None:
        """The broker's answer to it."""
        key = question.method, question.about
        before = self._whatever.get(key)
        if before is not None and before.until == math.inf:
            return  # said to another thread meanwhile: final
        in_a_row = before.in_a_row + 1 if before is not None else 1
        quiet = 0.0 if in_a_row == 1 else pause_after(in_a_row - 1)
        if answer.retry_after:  # 0 = at once, which is a pause as well when it is said again and again
            quiet = answer.retry_after
        elif isinstance(answer, BrokerUnavailable):
            return  # nobody answered: `BrokerCore.call` has paused, and the first moment of a new broker counts
        elif is_final(answer) and _is_of_the_input(question, answer):
            self._exactly[question] = answer
        elif is_final(answer):
            quiet = math.inf
        self._whatever[key] = _Memory(answer=answer, until=now + quiet, in_a_row=in_a_row)

    def helped(self, question: Question, now: float) -> None:
        """It was answered well, or will be: what was said before holds no longer, unless for good or for a time."""
        key = question.method, question.about
        known = self._whatever.get(key)
        if known is not None and known.until != math.inf and (known.answer.retry_after is None or now >= known.until):
            self._whatever.pop(key, None)


def _is_of_the_input(question: Question, refused: Refused) -> bool:
    return refused.reason in _OF_THE_INPUT or (refused.reason in _OF_THE_OLDER and bool(question.given.replaces))
