"""What an approval is bound to: grants, scope and tier, without the places where they are written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from broker.model import JsonValue, RuleRef
from broker.policy.rules import Grant, Scope


def approval_digest(
    scope: Scope, grants: Iterable[Grant], params: Mapping[str, JsonValue], *, workload: str, definition_digest: str
) -> str:
    """SHA-256, hex. Another file, line or order of the grants changes nothing; any other change of them does.

    Args:
        scope: with its tier's numbers.
        grants: all that name scope, workload and workflow, whether they match at this minute or not: a window that
            closes, or another address, changes nothing of what people have agreed to.
        params: the provider block with its templates filled.
        workload: whose owners did not say yes.
        definition_digest: of the step's code, as far as a launcher has proven it; else "".
    """
    rules = sorted(json.dumps(_plain(grant), sort_keys=True) for grant in grants)
    parts = [_plain(scope), rules, _plain(params), workload, definition_digest]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """The same JSON for the same rule, whatever order sets have."""
    if is_dataclass(value):
        kept = (item.name for item in fields(value) if not isinstance(getattr(value, item.name), RuleRef))
        return {name: _plain(getattr(value, name)) for name in kept if name != "position"}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(json.dumps(_plain(item), sort_keys=True) for item in value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
