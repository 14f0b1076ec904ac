"""Leases: every change of state is conditional on the state it leaves, in the statement itself."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime

from broker.clock import Moment
from broker.model import EndReason, Evidence, JsonValue, Lease, LeaseState
from broker.store.sqlite import sql
from broker.store.sqlite.known import MISSING, Kind
from broker.store.sqlite.rows import SqlValue, canonical, lease_of, lease_row, micros, time_of
from broker.store.sqlite.tx.base import Area

_SQL = sql.queries("leases")


class LeasesArea(Area):
    """The writing methods say with their answer whether the row was in a state to be changed."""

    def insert_lease(self, lease: Lease) -> None:
        self.must_have_room()
        self._db.run(_SQL["insert_lease"], lease_row(lease))
        self.known.put(Kind.REFS, lease.id, lease.refs)

    def lease(self, lease_id: str) -> Lease | None:
        row = self._db.one(_SQL["lease"], {"id": lease_id})
        return lease_of(row) if row else None

    def leases_of(self, step_id: str, *states: LeaseState) -> list[Lease]:
        named = canonical([state.value for state in states or LeaseState])
        asked: dict[str, SqlValue] = {"step_id": step_id, "states": named, "most": self.most}
        return [lease_of(row) for row in self.bounded(self._db.all(_SQL["leases_of"], asked))]

    def leases_in(self, *states: LeaseState) -> list[Lease]:
        return self._leases("leases_in", states=canonical([state.value for state in states]))

    def lease_page(self, state: LeaseState, *, after: int, limit: int, high: bool = False) -> tuple[list[Lease], int]:
        query = _SQL["high_lease_page"] if high else _SQL["lease_page"]
        rows = self._db.all(query, {"state": state.value, "after": after, "limit": limit})
        return [lease_of(row) for row in rows], rows[-1]["position"] if rows else after

    def known_children(self, provider: str) -> frozenset[str]:
        return frozenset(row["child"] for row in self._db.all(_SQL["known_children"], {"provider": provider}))

    def newest_leases(self, *, after: str, limit: int, ended_too: bool) -> list[Lease]:
        return self._leases("newest_leases" if ended_too else "newest_live_leases", after=after, limit=limit)

    def lease_counts_by_provider(self) -> Mapping[tuple[str, LeaseState], int]:
        rows = self._db.all(_SQL["lease_counts_by_provider"])
        return {(row["provider"], LeaseState(row["state"])): int(row["leases"]) for row in rows}

    def lease_counts(self) -> Mapping[LeaseState, int]:
        return {LeaseState(row["state"]): int(row["leases"]) for row in self._db.all(_SQL["lease_counts"])}

    def revoking_since(self, before: datetime) -> tuple[int, datetime | None]:
        row = self._db.one(_SQL["revoking_since"], {"before": micros(before)})
        if row is None or row["oldest"] is None:
            return 0, None
        return int(row["leases"]), time_of(row["oldest"])

    def due_leases(
        self, now: datetime, limit: int, *, without: Collection[str] = (), but: Collection[str] = ()
    ) -> list[Lease]:
        named = {"without": canonical(sorted(without)), "but": canonical(sorted(but))}
        return self._leases("due_leases", now=micros(now), limit=limit, **named)

    def make_due(self, at: datetime, *, provider: str = "", only: Collection[str] | None = None) -> int:
        named = None if only is None else canonical(sorted(only))
        return self._db.run(_SQL["make_due"], {"at": micros(at), "provider": provider, "only": named})

    def leases_go_on_in(self, now: Moment) -> None:
        params: dict[str, SqlValue] = {"now": micros(now.wall), "boot": now.boot, "boot_id": now.boot_id}
        self._db.run(_SQL["leases_go_on_in"], params)

    def live_past(self, now: Moment) -> list[str]:
        params: dict[str, SqlValue] = {"now": micros(now.wall), "boot": now.boot, "boot_id": now.boot_id}
        return [row["id"] for row in self._db.all(_SQL["live_past"], params)]

    def unclaimed(self) -> list[str]:
        return [row["id"] for row in self._db.all(_SQL["unclaimed"])]

    def activate(self, lease_id: str, *, epoch: int, refs: Mapping[str, JsonValue], at: datetime) -> bool:
        merged = canonical({**self._refs(lease_id), **refs})
        self.known.drop(Kind.REFS, lease_id)
        return self._change("activate", lease_id, epoch=epoch, at=micros(at), refs=merged)

    def note(self, lease_id: str, *, epoch: int, refs: Mapping[str, JsonValue]) -> bool:
        return self._change("touch_intent", lease_id, epoch=epoch) and self._merge(lease_id, refs)

    def doom(self, lease_id: str, *, at: datetime, reason: EndReason) -> bool:
        return self._change("doom", lease_id, at=micros(at), reason=reason.value)

    def to_in_doubt(self, lease_id: str, *, at: datetime, problem: str) -> bool:
        return self._change("to_in_doubt", lease_id, at=micros(at), problem=problem)

    def to_revoking(
        self, lease_id: str, *, at: datetime, reason: EndReason, refs: Mapping[str, JsonValue] | None = None
    ) -> bool:
        return self._change("to_revoking", lease_id, at=micros(at), reason=reason.value) and self._merge(lease_id, refs)

    def to_ended(self, lease_id: str, state: LeaseState, *, evidence: Evidence, at: datetime) -> bool:
        if not state.terminal:
            raise ValueError("a lease ends in a terminal state")
        return self._change("to_ended", lease_id, state=state.value, evidence=evidence.value, at=micros(at))

    def defer(
        self, lease_id: str, *, next_try_at: datetime, problem: str, refs: Mapping[str, JsonValue] | None = None
    ) -> bool:
        changed = self._change("defer", lease_id, next_try_at=micros(next_try_at), problem=problem)
        return changed and self._merge(lease_id, refs)

    def claim(self, lease_id: str, at: datetime) -> bool:
        return self._change("claim", lease_id, at=micros(at))

    def set_replaced_by(self, lease_id: str, successor: str) -> bool:
        return self._change("set_replaced_by", lease_id, successor=successor)

    def clear_replaced_by(self, lease_id: str, successor: str) -> None:
        self._change("clear_replaced_by", lease_id, successor=successor)

    def _leases(self, query: str, **params: SqlValue) -> list[Lease]:
        return [lease_of(row) for row in self._db.all(_SQL[query], params)]

    def _change(self, query: str, lease_id: str, **params: SqlValue) -> bool:
        return bool(self._db.run(_SQL[query], {"id": lease_id, **params}))

    def _merge(self, lease_id: str, refs: Mapping[str, JsonValue] | None) -> bool:
        """Newer values win key by key; always True, to stand behind `and`."""
        if refs:
            merged = {**self._refs(lease_id), **refs}
            self._change("set_refs", lease_id, refs=canonical(merged))
            self.known.drop(Kind.REFS, lease_id)
        return True

    def _refs(self, lease_id: str) -> Mapping[str, JsonValue]:
        known = self.known.peek(Kind.REFS, lease_id)
        if known is not MISSING:
            return dict(known)
        row = self._db.one(_SQL["refs"], {"id": lease_id})
        return json.loads(row["refs"]) if row else {}
