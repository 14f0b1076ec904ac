"""What the journal says of a load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from broker.alert import Alert, AlertRule
from broker.journal.records import Kind, Record
from broker.model import JsonValue
from broker.policy.problems import Problem
from broker.policy.scope_map import ScopeMap
from broker.store import alarms
from broker.store.base import KeptMap, Tx

_OF_A_TEAM = "TEAM_FILE_REFUSED"
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


MAP_ALERT = Alert(
    rule=AlertRule.SCOPE_MAP_REFUSED, summary="the scope map on disk is refused; the last good one is in force"
)


def team_alert(team: str) -> Alert:
    """The file of this team is not taken."""
    text = f"the file of team {team} is refused; its last good one is in force"
    return Alert(rule=AlertRule.SCOPE_MAP_REFUSED, summary=text, labels={"team": team})


def refused(tx: Tx, file: Path, problems: Sequence[Problem], *, at: datetime) -> None:
    """A whole map is not taken: the record, and the alert."""
    tx.append(Record(kind=Kind.POLICY_REFUSED, at=at, data={"file": str(file), **_said(problems)}))
    alarms.sound(tx, MAP_ALERT, at=at)


def teams_refused(tx: Tx, teams: Mapping[str, Sequence[Problem]], *, at: datetime) -> None:
    """Files of these teams are not taken, the rest of the map is."""
    for team, problems in sorted(teams.items()):
        data = {"team": team, **_said(problems)}
        tx.append(Record(kind=Kind.POLICY_REFUSED, at=at, reason=_OF_A_TEAM, data=data))
        alarms.sound(tx, team_alert(team), at=at, reason=_OF_A_TEAM)


def _said(problems: Sequence[Problem]) -> dict[str, JsonValue]:
    return {"problems": [str(problem) for problem in problems[:SAID]], "count": len(problems)}
