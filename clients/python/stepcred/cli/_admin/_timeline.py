"""A run's records as lines of a story: what happened to which step, and why. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """A journal record."""

    chain: int
    seq: int
    at: datetime
    raw: Mapping[str, Any]  # its body, and where it stands

    def text(self, name: str) -> str:
        """A word of it; "" when it has none."""
        value = self.raw.get(name, "")
        return value if isinstance(value, str) else ""

    @property
    def data(self) -> Mapping[str, Any]:
        """Never anything but a mapping."""
        found = self.raw.get("data")
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of the story."""

    time: str  # since the beginning
    step: str
    what: str
    scope: str
    why: str


def parse(entry: Any) -> Told:
    """Of a JournalEntry. A broker that is newer than this may have records of which we know nothing."""
    body = json.loads(entry.body)
    raw = {"chain": entry.chain, "seq": entry.seq, **body, "hash": entry.hash}
    try:
        at = datetime.fromisoformat(str(body.get("at")))
    except ValueError:
        at = datetime.fromtimestamp(0, UTC)
    return Told(chain=entry.chain, seq=entry.seq, at=at, raw=raw)


def rows(found: Sequence[Told], *, full: bool = False) -> Iterator[Row]:
    """`full`: every record; else a lease has one line for its beginning and one for its end."""
    start = found[0].at if found else datetime.now(UTC)
    steps = {one.text("step_id"): one.text("step") for one in found if one.text("step")}
    minted = {one.text("lease_id"): one for one in found if one.text("kind") == "LEASE_ACTIVE"}
    ended = {one.text("lease_id") for one in found if one.text("kind") in _ENDS}
    intents = {one.text("lease_id"): one for one in found if one.text("kind") == "LEASE_INTENT"}
    for one in found:
        kind, lease = one.text("kind"), one.text("lease_id")
        told_elsewhere = (
            (kind == "LEASE_INTENT" and (lease in minted or lease in ended))
            or (kind in ("LEASE_REVOKING", "LEASE_DOOMED", "LEASE_PROGRESS") and lease in ended)
            or kind in ("LEASE_CLAIMED", "LEASE_NOTED")
        )
        if told_elsewhere and not full:
            continue
        what, why = _words(one, intents.get(lease))
        yield Row(
            time=_since((one.at - start).total_seconds()),
            step=one.text("step") or steps.get(one.text("step_id"), ""),
            what=what,
            scope=one.text("scope"),
            why=why,
        )


def _words(one: Told, intent: Told | None) -> tuple[str, str]:
    """What happened, and why."""
    kind = one.text("kind")
    known = _WORDS.get(kind)
    if known is None:
        return kind.lower().replace("_", " "), _reason(one)
    what, why = known
    if kind == "LEASE_ACTIVE" and intent is not None:
        return what, f"in {(one.at - intent.at).total_seconds():.2f} s, by {intent.text('rule') or 'no rule'}"
    return what, why(one)


def _reason(one: Told) -> str:
    by = one.data.get("by") or one.data.get("operator")
    vote = ("yes" if one.data["approve"] is True else "no") if "approve" in one.data else ""
    why = one.data.get("why", "")
    words = [vote, one.text("reason"), f"by {by}" if by else "", f"{why}", str(one.data.get("problem", ""))]
    return ", ".join(word for word in words if word)


def _begun(one: Told) -> str:
    scopes = one.data.get("scopes")
    if not isinstance(scopes, Mapping):
        return ""
    return ", ".join(name if word == "granted" else f"{name}: {word}" for name, word in scopes.items())


def _refused(one: Told) -> str:
    reference = one.text("reference_id")
    return ", ".join(
        word for word in (one.text("reason"), one.text("rule"), f"ref {reference}" if reference else "") if word
    )


def _dead(one: Told) -> str:
    seconds = one.data.get("seconds_to_dead")
    took = f"{seconds:.2f} s after it was asked to die" if isinstance(seconds, int | float) else ""
    return ", ".join(word for word in (one.text("reason"), took) if word)


def _approval(one: Told) -> str:
    approval = one.data.get("approval_id", "")
    return ", ".join(str(word) for word in (_reason(one), approval) if word)


_ENDS = ("LEASE_REVOKED", "LEASE_EXPIRED", "LEASE_VOID")
_WORDS: Mapping[str, tuple[str, Callable[[Told], str]]] = {
    "STEP_BEGUN": ("begins", _begun),
    "STEP_STARTED": ("starts", _reason),
    "STEP_ENDED": ("ends", _reason),
    "DENIED": ("refused", _refused),
    "DENIALS_COUNTED": ("refused", _refused),
    "LEASE_INTENT": ("asks for", _reason),
    "LEASE_ACTIVE": ("minted", _reason),
    "LEASE_CLAIMED": ("claimed", _reason),
    "LEASE_DOOMED": ("to die", _reason),
    "LEASE_IN_DOUBT": ("in doubt", _reason),
    "LEASE_REVOKING": ("to die", _reason),
    "LEASE_REVOKED": ("dead", _dead),
    "LEASE_EXPIRED": ("expired", _dead),
    "LEASE_VOID": ("not minted", _reason),
    "GUARD_LOCKED": ("LOCKED", _reason),
    "GUARD_HELD": ("HELD", _reason),
    "GUARD_RESET": ("reset", _reason),
    "APPROVAL_REQUESTED": ("asks people", _approval),
    "APPROVAL_VOTED": ("vote", _approval),
    "APPROVAL_GIVEN": ("approved", _approval),
    "APPROVAL_DENIED": ("denied", _approval),
    "ALERT": ("ALERT", _reason),
}


def _since(seconds: float) -> str:
    """+0.04s, +12.3s, +4m07s, +3h05m."""
    if seconds < 0:  # clocks are set back now and then
        return f"{seconds:.1f}s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes_left = divmod(int(minutes), 60)
    if hours:
        return f"+{hours}h{minutes_left:02}m"
    if minutes >= 1:
        return f"+{int(minutes)}m{int(rest):02}s"
    return f"+{rest:.2f}s"
