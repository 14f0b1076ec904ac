"""Findings as SARIF 2.1.0 (OASIS), which code review tools read."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from urllib.parse import quote

from broker.model import JsonValue
from broker.policy.lint import RULES, Finding, Rule

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_POSITION = re.compile(r":[0-9]+(:[0-9]+)?|line [0-9]+")


def sarif(found: Sequence[Finding]) -> dict[str, JsonValue]:
    """One run. Files must be named relative to the repository's folder, which is %SRCROOT%."""
    rules = list(dict.fromkeys([*RULES, *(one.rule for one in found)]))
    numbers = {rule: number for number, rule in enumerate(rules)}
    seen: Counter[str] = Counter()
    results = []
    for one in found:
        uri = quote(one.file)
        fingerprint = _fingerprint(one, uri)
        seen[fingerprint] += 1
        results.append(_result(one, numbers[one.rule], uri, f"{fingerprint}:{seen[fingerprint]}"))
    driver = {
        "name": "stepcred-broker scopes lint",
        "version": metadata.version("stepcred"),
        "rules": [_rule(rule) for rule in rules],
    }
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: Rule) -> JsonValue:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "help": {"text": rule.help},
        "defaultConfiguration": {"level": rule.level.value},
    }


def _result(one: Finding, number: int, uri: str, fingerprint: str) -> JsonValue:
    region = {"startLine": one.line, "startColumn": one.column}
    artifact = {"uri": uri, "uriBaseId": "%SRCROOT%"}
    return {
        "ruleId": one.rule.id,
        "ruleIndex": number,
        "level": one.rule.level.value,
        "message": {"text": one.message},
        "locations": [{"physicalLocation": {"artifactLocation": artifact, "region": region}}],
        "partialFingerprints": {"stepcredFinding/v1": fingerprint},
    }


def _fingerprint(one: Finding, uri: str) -> str:
    """The same while lines move: of rule, file and message without positions."""
    parts = (one.rule.id, uri, _POSITION.sub("", one.message))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
