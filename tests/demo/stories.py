"""What the journal says of a step's leases, in one line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.demo.screen import format_seconds


@dataclass(frozen=True, kw_only=True)
class LeaseStory:
    """One lease, from intent to evidence. `state` is that of its last record; times are seconds."""

    lease_id: str
    scope: str
    rule: str
    state: str
    evidence: str
    minted_in: float
    dead_in: float

    def __str__(self) -> str:
        return (
            f"by {self.rule}, minted in {format_seconds(self.minted_in)}, "
            f"{self.state}{f' ({self.evidence})' if self.evidence else ''}"
        )


def lease_stories(records: Sequence[dict[str, Any]], *, run_id: str, step: str) -> list[LeaseStory]:
    """Those of one step of one run, all attempts, in order."""
    steps = {
        record["step_id"]
        for record in records
        if record["kind"] == "STEP_BEGUN" and (record["run"], record["step"]) == (run_id, step)
    }
    of_lease: dict[str, dict[str, dict[str, Any]]] = {}
    for record in records:
        if record.get("step_id") in steps and record["kind"].startswith("LEASE_"):
            of_lease.setdefault(record["lease_id"], {})[record["kind"].removeprefix("LEASE_")] = record
    return [_story(found) for found in of_lease.values() if {"INTENT", "ACTIVE"} <= found.keys()]


def _story(found: dict[str, dict[str, Any]]) -> LeaseStory:
    intent, active = found["INTENT"], found["ACTIVE"]
    states = [kind for kind in found if kind not in ("CLAIMED", "PROGRESS", "NOTED")]
    last = found[states[-1]]
    dead = last["kind"] in ("LEASE_REVOKED", "LEASE_EXPIRED")
    name, _, place = intent["rule"].partition(" (")
    return LeaseStory(
        lease_id=intent["lease_id"],
        scope=intent["scope"],
        rule=f"{name} ({Path(place).name}",  # scopes.yaml:31, without the folder
        state=states[-1],
        evidence=last["reason"] if dead else "",
        minted_in=(datetime.fromisoformat(active["at"]) - datetime.fromisoformat(intent["at"])).total_seconds(),
        dead_in=float(last["data"]["seconds_to_dead"]) if dead else 0.0,
    )
