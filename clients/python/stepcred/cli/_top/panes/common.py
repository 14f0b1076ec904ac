"""What several panes say in the same words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from stepcred.cli._top.model import Key, Place, Snapshot
from stepcred.cli._top.table import Cell, Tone
from stepcred.cli._top.words import home, span, until

_SOON = timedelta(minutes=1)
_LATEST = datetime.max.replace(tzinfo=UTC)
_TONES = {
    "ACTIVE": Tone.GOOD,
    "REVOKING": Tone.LOOK,
    "IN_DOUBT": Tone.BAD,
    "COOLING": Tone.LOOK,
    "LOCKED": Tone.BAD,
    "HELD": Tone.BAD,
    "PENDING": Tone.LOOK,
    "critical": Tone.BAD,
    "warning": Tone.LOOK,
}


def tone(state: str) -> Tone:
    return _TONES.get(state, Tone.PLAIN)


def ago(moment: datetime | None, now: datetime) -> str:
    return span(now - moment) if moment else ""


def by_time(moment: datetime | None) -> datetime:
    """For orders: what has no time comes last."""
    return moment or _LATEST


def ends(moment: datetime | None, now: datetime) -> Cell:
    soon = moment is not None and moment - now < _SOON
    return Cell(until(moment, now), Tone.LOOK if soon else Tone.PLAIN)


def at_home(snapshot: Snapshot) -> str:
    """The trust domain that goes without saying."""
    return home([step.place.agent for step in snapshot.steps] + [lease.place.agent for lease in snapshot.leases])


def whose(place: Place) -> tuple[tuple[str, str], ...]:
    return (("agent", place.agent), ("workflow", place.workflow), ("run", place.run), ("step", place.step))


def budget(key: Key) -> str:
    return f"{key.left} of {key.allowed}, {key.tier}, {key.state}"
