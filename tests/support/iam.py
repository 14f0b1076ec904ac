"""What AWS would decide by a session's policies: a small evaluator, written from IAM's rules and not from the compiler's.

Allow in one, and deny in none. Actions and condition keys know no case; `*` and `?` are wildcards of actions, resources and
…Like. A condition key that a request does not have fails an operator, but for negated ones and …IfExists. Policy variables
are taken as they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

_NEGATED = ("StringNotEquals", "StringNotLike", "StringNotEqualsIgnoreCase", "DateNotEquals", "NumericNotEquals")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of a session."""

    action: str
    resource: str
    context: Mapping[str, Sequence[str]] = field(default_factory=dict)


def allows(statements: Iterable[Mapping[str, Any]], request: Request) -> bool:
    """Of one policy, or of several joined."""
    effects = {statement["Effect"] for statement in statements if _applies(statement, request)}
    return effects == {"Allow"}


def _applies(statement: Mapping[str, Any], request: Request) -> bool:
    return (
        _element(statement, "Action", request.action.lower(), str.lower)
        and _element(statement, "Resource", request.resource, str)
        and all(
            _holds(operator, key, _several(values), request)
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def _element(statement: Mapping[str, Any], name: str, value: str, fold: Any) -> bool:
    if name in statement:
        return any(_like(fold(pattern), value) for pattern in _several(statement[name]))
    return not any(_like(fold(pattern), value) for pattern in _several(statement[f"Not{name}"]))


def _holds(operator: str, key: str, wanted: Sequence[str], request: Request) -> bool:
    found = next((values for name, values in request.context.items() if name.lower() == key.lower()), None)
    if operator == "Null":
        return (found is None) == (wanted[0] == "true")
    quantifier, _, rest = operator.rpartition(":")
    base = rest.removesuffix("IfExists")
    if found is None or not found:
        return rest != base or base in _NEGATED or quantifier == "ForAllValues"
    hits = [_compare(base, wanted, value) for value in found]
    return any(hits) if quantifier == "ForAnyValue" else all(hits)


def _compare(operator: str, wanted: Sequence[str], value: str) -> bool:
    if operator in _NEGATED:
        return not _compare(operator.replace("Not", ""), wanted, value)
    return any(_matches(operator, one, value) for one in wanted)


def _matches(operator: str, wanted: str, value: str) -> bool:
    match operator:
        case "StringEquals":
            return value == wanted
        case "StringEqualsIgnoreCase" | "Bool":
            return value.lower() == wanted.lower()
        case "StringLike":
            return _like(wanted, value)
        case "DateGreaterThan":
            return datetime.fromisoformat(value) > datetime.fromisoformat(wanted)
        case "DateLessThan":
            return datetime.fromisoformat(value) < datetime.fromisoformat(wanted)
        case "NumericLessThan":
            return float(value) < float(wanted)
    raise NotImplementedError(operator)


def _like(pattern: str, value: str) -> bool:
    parts = ({"*": ".*", "?": "."}.get(one, re.escape(one)) for one in pattern)
    return re.fullmatch("".join(parts), value, re.DOTALL) is not None


def _several(value: Any) -> Sequence[str]:
    return [value] if isinstance(value, str) else value
