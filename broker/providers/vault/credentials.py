"""From what the server answered to a typed credential."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from broker.model import Credential, KeyValue, UsernamePassword
from broker.secret import Secret


def child_of(body: Mapping[str, Any]) -> str:
    """The lease id of a leased secret, "" for a static one."""
    lease_id = body.get("lease_id")
    return lease_id if isinstance(lease_id, str) else ""


def credential_of(body: Mapping[str, Any]) -> Credential | None:
    """Username and password where there are both, key/value otherwise; None when there is nothing in it."""
    data = body.get("data")
    if not isinstance(data, dict):
        return None
    version = 0
    if isinstance(data.get("metadata"), dict) and "data" in data:  # KV v2 wraps its values
        version = int(data["metadata"].get("version", 0))
        data = data["data"]
        if not isinstance(data, dict):  # the latest version has been deleted
            return None
    if child_of(body) and isinstance(data.get("username"), str) and isinstance(data.get("password"), str):
        rest = {key: _text(value) for key, value in data.items() if key not in ("username", "password")}
        return UsernamePassword(username=data["username"], password=Secret(data["password"]), attributes=rest)
    return KeyValue(data={key: Secret(_text(value)) for key, value in data.items()}, version=version)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
