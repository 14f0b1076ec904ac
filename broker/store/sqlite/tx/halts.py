"""What operators have stopped, what is still to be reviewed, and the codes that were used."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from broker.store.halts import Freeze, Review, SecondFactor
from broker.store.sqlite import sql
from broker.store.sqlite.known import Kind
from broker.store.sqlite.rows import FREEZE, REVIEW, SECOND_FACTOR, micros
from broker.store.sqlite.tx.base import Area

_SQL = sql.queries("halts")


class HaltsArea(Area):
    """A few rows each."""

    def add_freeze(self, freeze: Freeze) -> bool:
        self._forget_freezes()
        return bool(self._db.run(_SQL["add_freeze"], FREEZE.row(freeze)))

    def remove_freeze(self, freeze_id: str) -> bool:
        self._forget_freezes()
        return bool(self._db.run(_SQL["remove_freeze"], {"id": freeze_id}))

    def freezes(self) -> Sequence[Freeze]:
        return self.known.get(Kind.FREEZES, "", lambda: tuple(FREEZE.of(row) for row in self._db.all(_SQL["freezes"])))

    def add_review(self, review: Review) -> None:
        self._db.run(_SQL["add_review"], REVIEW.row(review))

    def review(self, review_id: str) -> Review | None:
        row = self._db.one(_SQL["review"], {"id": review_id})
        return REVIEW.of(row) if row else None

    def close_review(self, review_id: str, *, by: str, at: datetime, note: str) -> bool:
        return bool(self._db.run(_SQL["close_review"], {"id": review_id, "by": by, "at": micros(at), "note": note}))

    def reviews(self, *, closed_too: bool = False) -> Sequence[Review]:
        return [REVIEW.of(row) for row in self._db.all(_SQL["reviews"], {"closed_too": int(closed_too)})]

    def second_factor(self, operator: str) -> SecondFactor | None:
        row = self._db.one(_SQL["second_factor"], {"operator": operator})
        return SECOND_FACTOR.of(row) if row else None

    def put_second_factor(self, factor: SecondFactor) -> None:
        self._db.run(_SQL["put_second_factor"], SECOND_FACTOR.row(factor))

    def _forget_freezes(self) -> None:
        self.known.forget(Kind.FREEZES)
        self.known.forget(Kind.CONTROL)  # it says whether everything is frozen
