"""What a role's trust policy says of who may assume it. Pure; a document of a shape that is not known says nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from broker.model import JsonValue
from broker.providers.aws.check.caller import Caller

ASSUME = "sts:AssumeRole"


def trusted(document: JsonValue) -> list[str]:
    """Every principal that some statement lets assume the role, as it is written there."""
    found: list[str] = []
    for statement in _letting_in(document):
        principal = statement.get("Principal")
        if isinstance(principal, dict):
            found += [str(name) for names in principal.values() for name in _listed(names)]
        else:
            found += map(str, _listed(principal))
    return list(dict.fromkeys(found))


def is_trusted(document: JsonValue, caller: Caller) -> bool:
    """By its name, its account, or everybody."""
    account = caller.account
    everybody = {"*", account, f"arn:{_partition(caller.arn)}:iam::{account}:root"}
    return any(name in everybody or is_caller(name, caller) for name in trusted(document))


def others(document: JsonValue, caller: Caller) -> list[str]:
    """Who may assume it beside the broker."""
    return [name for name in trusted(document) if not is_caller(name, caller)]


def is_caller(name: str, caller: Caller) -> bool:
    """A role may have a path, which a session's ARN does not show."""
    head, _, path = name.partition(":role/")
    plain = f"{head}:role/{path.rpartition('/')[2]}" if path else name
    return name == caller.arn or (bool(caller.principal) and plain == caller.principal)


def external_ids(document: JsonValue) -> list[str]:
    """Those that its statements demand."""
    found: list[str] = []
    for statement in _letting_in(document):
        condition = statement.get("Condition")
        for operator, keys in condition.items() if isinstance(condition, dict) else ():
            for key, value in keys.items() if isinstance(keys, dict) else ():
                if key.lower() == "sts:externalid" and operator.startswith("StringEquals"):
                    found += map(str, _listed(value))
    return found


def keys_alone(document: JsonValue) -> bool:
    """Do its statements let nobody assume the role who is a session himself?"""
    return all(_no_sessions(statement.get("Condition")) for statement in _letting_in(document))


def _letting_in(document: JsonValue) -> Iterator[Mapping[str, JsonValue]]:
    """Statements that allow AssumeRole."""
    for statement in _listed(document.get("Statement") if isinstance(document, dict) else None):
        if isinstance(statement, dict) and statement.get("Effect") == "Allow":
            patterns = [str(each).lower() for each in _listed(statement.get("Action"))]
            if any(fnmatchcase(ASSUME.lower(), pattern) for pattern in patterns):
                yield statement


def _no_sessions(condition: JsonValue) -> bool:
    """A session has a time of issue, a stored key has none."""
    null = condition.get("Null") if isinstance(condition, dict) else None
    held = {key.lower(): value for key, value in null.items()} if isinstance(null, dict) else {}
    return [str(each).lower() for each in _listed(held.get("aws:tokenissuetime"))] == ["true"]


def _listed(value: JsonValue) -> list[JsonValue]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _partition(arn: str) -> str:
    return arn.split(":")[1] if arn.count(":") > 1 else "aws"
