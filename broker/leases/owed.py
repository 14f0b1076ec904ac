"""What a scope promises of a credential that time would end: that it is denied before. And what people are told of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from broker.model import JsonValue, Lease, Revocability
from broker.providers.base import DENY_WRITTEN_AT


def is_owed(lease: Lease, refs: Mapping[str, JsonValue]) -> bool:
    """Does its scope promise a deny that is not written yet? `refs`: what is new."""
    written = refs.get(DENY_WRITTEN_AT) or lease.refs.get(DENY_WRITTEN_AT)
    return lease.revocability is Revocability.DENY_POLICY and not written


def remembered(lease: Lease, refs: Mapping[str, JsonValue], *, alarm: bool) -> dict[str, JsonValue]:
    """With whether it has alarmed; of a deny that was owed, until it is written."""
    done = bool(lease.refs.get("alarmed")) and is_owed(lease, {}) and not is_owed(lease, refs)
    return {**refs, "alarmed": alarm} if alarm or done else dict(refs)


def exposure(lease: Lease, refs: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """Of what time ends: until when it may still work, and whether something has been done about that."""
    if not lease.revocability.ends_by_time:
        return {}
    told: dict[str, JsonValue] = {"exposed_until": lease.expires_at.isoformat()}
    denied_at = refs.get(DENY_WRITTEN_AT) or lease.refs.get(DENY_WRITTEN_AT)
    return told | ({DENY_WRITTEN_AT: denied_at} if denied_at else {})
