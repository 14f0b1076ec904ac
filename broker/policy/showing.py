"""What a credential would be able to do, as a document for its agent. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from broker.model import JsonValue, Powers, Revocability, ScopeKind
from broker.policy.decision import Allowed
from broker.policy.durations import format_duration

MAX_DOCUMENT = 16_384  # characters; a session policy has 2,048 at most. 32 scopes are asked for at once at most

_ENDS: Mapping[Revocability, str] = {
    Revocability.EXACT: "ended with the step, at once",
    Revocability.DENY_POLICY: "denied with the step's end; the provider takes seconds to minutes to obey",
    Revocability.PUBLISHED: "revoked with the step's end; whoever does not read the revocation list takes it until then",
    Revocability.EXPIRY_ONLY: "not to be ended earlier",
    Revocability.STATIC: "the value lives on after the step",
}


def document(kind: ScopeKind, allowed: Allowed, *, now: datetime, until: datetime) -> str:
    """A JSON object (docs/can.md). `until`: when the credential would end, were it minted now."""
    powers = kind.describe(allowed.params, now=now, until=until)
    head: dict[str, JsonValue] = {
        "provider": allowed.provider,
        "in_words": [*powers.words, _end(allowed, until)],
        "until": f"{until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "ttl_seconds": int(allowed.ttl.total_seconds()),
        "max_ttl_seconds": int(allowed.max_ttl.total_seconds()),
        "revocability": allowed.revocability.value,
    }
    text = _text({**head, allowed.provider: powers.told} if not powers.refused else {**head, **_refused(powers)})
    if len(text) > MAX_DOCUMENT:
        text = _text({**head, "in_words": [_end(allowed, until)], "left_out": f"more than {MAX_DOCUMENT} characters"})
    return text


def _end(allowed: Allowed, until: datetime) -> str:
    times = f"until {until.astimezone(UTC):%Y-%m-%d %H:%MZ} if issued now"
    longer = f", with successors for {format_duration(allowed.max_ttl)}" if allowed.max_ttl > allowed.ttl else ""
    return f"{times}{longer}; {_ENDS[allowed.revocability]}"


def _refused(powers: Powers) -> dict[str, JsonValue]:
    return {"in_words": [], "cannot_be_issued": powers.refused}


def _text(told: Mapping[str, Any]) -> str:
    return json.dumps(told, separators=(",", ":"))
