"""What operators have stopped, what is still to be reviewed, and the codes that were used, as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from broker.model import JsonValue

EVERYTHING = "all"  # the id of the freeze of everything: there is at most one
FREEZES_BY = ("agent", "workflow", "run", "scope", "provider")


@dataclass(frozen=True, kw_only=True, slots=True)
class Freeze:
    """Nothing is minted that fits every name in it."""

    id: str  # 16 characters of [a-z2-7], or EVERYTHING
    by: str
    reason: str
    at: datetime
    agent: str = ""  # SPIFFE ID
    workflow: str = ""
    run: str = ""
    scope: str = ""
    provider: str = ""

    @property
    def named(self) -> dict[str, str]:
        """What it is narrowed to; nothing when it is of everything."""
        return {name: value for name in FREEZES_BY if (value := getattr(self, name))}


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """What an operator did when nobody else was there. Open until another operator signs it."""

    id: str  # 16 characters of [a-z2-7]
    kind: str
    about: Mapping[str, JsonValue]
    by: str  # operator
    reason: str
    at: datetime
    closed_by: str = ""
    closed_at: datetime | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SecondFactor:
    """Of an operator's codes: which were used, and how often somebody guessed."""

    operator: str
    revision: int  # of the secret; another one starts anew
    last_step: int = 0  # the 30 s step (RFC 6238) of the last code that was taken: none before or of it is taken again
    failures: int = 0  # wrong codes in a row
    failed_at: datetime | None = None
    boot_id: str = ""
    failed_boot: float = 0.0  # the same by elapsed time


class HaltsTx(Protocol):
    """Part of `Tx`."""

    def add_freeze(self, freeze: Freeze) -> bool:
        """False when one of this id exists."""
        ...

    def remove_freeze(self, freeze_id: str) -> bool: ...
    def freezes(self) -> Sequence[Freeze]:
        """The oldest first."""
        ...

    def add_review(self, review: Review) -> None: ...
    def review(self, review_id: str) -> Review | None: ...
    def close_review(self, review_id: str, *, by: str, at: datetime, note: str) -> bool:
        """False when it is closed, or there is none."""
        ...

    def reviews(self, *, closed_too: bool = False) -> Sequence[Review]:
        """The newest first, at most 200."""
        ...

    def second_factor(self, operator: str) -> SecondFactor | None: ...
    def put_second_factor(self, factor: SecondFactor) -> None: ...
