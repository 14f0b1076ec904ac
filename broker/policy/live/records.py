"""What the journal says of a load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from broker.journal.records import Kind, Record
from broker.model import JsonValue
from broker.policy.problems import Problem
from broker.policy.scope_map import ScopeMap
from broker.store.base import KeptMap

SAID = 20  # problems of a file; the first ones say enough


def loaded(new: ScopeMap, kept: KeptMap, *, at: datetime, came_from: str, plan: JsonValue) -> Record:
    """A map is in force. `came_from`: "files", or "database" when those are bad at a start."""
    data = {
        "file": new.file,
        "digest": kept.digest,
        "generation": kept.generation,
        "grants": len(new.grants),
        "from": came_from,
        "plan": plan,
    }
    if kept.manifest:
        data |= {"serial": kept.serial, "signers": list(kept.signers)}
    return Record(kind=Kind.POLICY_LOADED, at=at, data=data)


def refused(file: Path, problems: Sequence[Problem], *, at: datetime) -> list[Record]:
    """A whole map is not taken: the record, and the alert."""
    data = {"file": str(file), **_said(problems)}
    return [
        Record(kind=Kind.POLICY_REFUSED, at=at, data=data),
        Record(kind=Kind.ALERT, at=at, reason="SCOPE_MAP_REFUSED", data=data),
    ]


def teams_refused(teams: Mapping[str, Sequence[Problem]], *, at: datetime) -> list[Record]:
    """Files of these teams are not taken, the rest of the map is."""
    return [
        Record(kind=kind, at=at, reason="TEAM_FILE_REFUSED", data={"team": team, **_said(problems)})
        for team, problems in sorted(teams.items())
        for kind in (Kind.POLICY_REFUSED, Kind.ALERT)
    ]


def _said(problems: Sequence[Problem]) -> dict[str, JsonValue]:
    return {"problems": [str(problem) for problem in problems[:SAID]], "count": len(problems)}
