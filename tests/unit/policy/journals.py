"""Journals for tests: records as the engine writes them, in the real store, or exported."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from broker.cli import audit
from broker.journal.records import Kind, Record
from broker.store.base import Tx
from broker.store.sqlite import open_store
from tests.unit.policy.maps import LOAD

START = datetime(2026, 6, 1, 12, tzinfo=UTC)


@dataclass(kw_only=True)
class Journal:
    """Grows by what happens; time moves with it."""

    at: datetime = START
    records: list[Record] = field(default_factory=list)
    _ids: Any = field(default_factory=count)

    def add(self, kind: Kind, **fields: Any) -> None:
        self.records.append(Record(kind=kind, at=self.at, **fields))

    def wait(self, **span: float) -> None:
        self.at += timedelta(**span)

    def begin(
        self,
        scopes: Mapping[str, str],
        *,
        agent: str = LOAD,
        workflow: str = "etl",
        run: str = "r1",
        **data: Any,
    ) -> str:
        """A step; `scopes`: what was said of each."""
        step_id = f"step-{next(self._ids)}"
        told = {"attempt": 1, "scopes": dict(scopes)} | data
        self.add(Kind.STEP_BEGUN, agent=agent, workflow=workflow, run=run, step="load", step_id=step_id, data=told)
        return step_id

    def lease(self, step_id: str, scope: str = "orders", *, agent: str = LOAD, **data: Any) -> str:
        lease_id = f"lease-{next(self._ids)}"
        fields: dict[str, Any] = {"agent": agent, "step_id": step_id, "lease_id": lease_id, "scope": scope}
        self.add(Kind.LEASE_INTENT, rule="nightly (map.yaml:14:3)", data=data, **fields)
        self.add(Kind.LEASE_ACTIVE, **fields)
        return lease_id

    def end(self, step_id: str, *leases: str, scope: str = "orders", reason: str = "STEP_ENDED") -> None:
        self.add(Kind.STEP_ENDED, step_id=step_id, reason=reason)
        for lease_id in leases:
            self.add(Kind.LEASE_REVOKING, step_id=step_id, lease_id=lease_id, scope=scope, reason=reason)
            self.add(Kind.LEASE_REVOKED, step_id=step_id, lease_id=lease_id, scope=scope, reason="SEEN_DEAD")

    def whole(self, scope: str = "orders", *, seconds: float = 30, **step: Any) -> str:
        """A step that asks for one credential, works, and ends."""
        step_id = self.begin({scope: "granted"}, **step)
        lease_id = self.lease(step_id, scope, agent=step.get("agent", LOAD))
        self.wait(seconds=seconds)
        self.end(step_id, lease_id, scope=scope)
        return step_id

    def deny(self, reason: str = "ACCESS_DENIED", *, agent: str = LOAD, scope: str = "lake", **more: Any) -> str:
        reference = f"ref-{next(self._ids)}"
        data = more.pop("data", {"method": "IssueCredential", "denial": "NO_GRANT"})
        fields = {"workflow": "etl", "run": "r1", "step": "load"} | more
        self.add(Kind.DENIED, agent=agent, scope=scope, reason=reason, reference_id=reference, data=data, **fields)
        return reference

    def dicts(self) -> list[dict[str, Any]]:
        return [json.loads(record.body()) for record in self.records]

    def database(self, path: Path) -> Path:
        asyncio.run(_fill(path, self.records))
        return path

    def export(self, path: Path) -> Path:
        """By the real command, of the real store."""
        database = self.database(path.with_suffix(".db"))
        result = CliRunner().invoke(audit.app, ["export", "--database", str(database)])
        assert result.exit_code == 0
        path.write_text(result.stdout)
        return path


async def _fill(path: Path, records: Sequence[Record]) -> None:
    store = open_store(path)
    await store.write(lambda tx: tx.start_epoch(replica="r", boot_id="b", expires_boot=1.0, at=START))
    for start in range(0, len(records), 5000):
        page = records[start : start + 5000]

        def append(tx: Tx, page: Sequence[Record] = page) -> None:
            for record in page:
                tx.append(record)

        await store.write(append)
    await store.close()
