"""Steps and their attempts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from broker.clock import Moment
from broker.model import Bind, Certificate, EndReason, Step, StepKey
from broker.store.sqlite import sql
from broker.store.sqlite.known import MISSING, Kind
from broker.store.sqlite.rows import CERTIFICATE, STEP_KEY, SqlValue, micros, step_of, step_row
from broker.store.sqlite.tx.base import Area

_SQL = sql.queries("steps")


class StepsArea(Area):
    """A step is open until something ends it."""

    def insert_step(self, step: Step) -> None:
        self.must_have_room()
        self._db.run(_SQL["insert_step"], step_row(step))
        self._learn(step)

    def step(self, step_id: str) -> Step | None:
        return self.known.get(Kind.STEP, step_id, lambda: self._step("step", {"id": step_id}))

    def step_by_handle(self, handle_hash: bytes) -> Step | None:
        step_id = self.known.peek(Kind.HANDLE, handle_hash)
        if step_id is not MISSING:
            return self.step(step_id)
        step = self._step("step_by_handle", {"handle_hash": handle_hash})
        if step is not None:
            self._learn(step)
        return step

    def _learn(self, step: Step) -> None:
        self.known.put(Kind.STEP, step.id, step)
        self.known.put(Kind.HANDLE, step.handle_hash, step.id)

    def latest_attempt(self, key: StepKey) -> Step | None:
        return self._step("latest_attempt", STEP_KEY.row(key))

    def beat(self, step_id: str, at: datetime) -> None:
        self.known.drop(Kind.STEP, step_id)
        self._db.run(_SQL["beat"], {"id": step_id, "at": micros(at)})

    def start_step(self, step_id: str, at: datetime, *, certificate: Certificate, bind: Bind) -> bool:
        self.known.drop(Kind.STEP, step_id)
        params = {"id": step_id, "at": micros(at), "bind": bind.value, **CERTIFICATE.row(certificate)}
        return bool(self._db.run(_SQL["start_step"], params))

    def end_step(self, step_id: str, at: datetime, reason: EndReason) -> bool:
        self.known.drop(Kind.STEP, step_id)
        return bool(self._db.run(_SQL["end_step"], {"id": step_id, "at": micros(at), "reason": reason.value}))

    def steps_go_on_in(self, now: Moment) -> None:
        self.known.forget(Kind.STEP)
        params: dict[str, SqlValue] = {"now": micros(now.wall), "boot": now.boot, "boot_id": now.boot_id}
        self._db.run(_SQL["steps_go_on_in"], params)

    def open_steps(self) -> list[Step]:
        return [step_of(row) for row in self._db.all(_SQL["open_steps"])]

    def open_step_ids(self, now: Moment) -> Mapping[str, bool]:
        params: dict[str, SqlValue] = {"now": micros(now.wall), "boot": now.boot, "boot_id": now.boot_id}
        return {row["id"]: bool(row["past"]) for row in self._db.all(_SQL["open_step_ids"], params)}

    def open_steps_of(self, workflow: str, run: str = "") -> list[Step]:
        asked: dict[str, SqlValue] = {"workflow": workflow, "run": run, "most": self.most}
        return [step_of(row) for row in self.bounded(self._db.all(_SQL["open_steps_of"], asked))]

    def step_page(self, *, after: str, limit: int, ended_too: bool) -> list[Step]:
        query = _SQL["step_page"] if ended_too else _SQL["open_step_page"]
        return [step_of(row) for row in self._db.all(query, {"after": after, "limit": limit})]

    def open_step_count(self) -> int:
        (row,) = self._db.all(_SQL["open_step_count"])
        return int(row["steps"])

    def _step(self, query: str, params: dict[str, SqlValue]) -> Step | None:
        row = self._db.one(_SQL[query], params)
        return step_of(row) if row else None
