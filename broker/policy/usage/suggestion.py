"""One key of a map to paste over, and all of them as YAML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from broker.model import JsonValue, RuleRef
from broker.policy.problems import quote


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """One key to paste over; `evidence` says why."""

    rule: RuleRef
    path: tuple[str, ...]  # in the file that the rule stands in
    value: JsonValue  # None takes the key away
    evidence: str

    @property
    def key(self) -> str:
        """Of the entry; "" when the entry itself goes."""
        return self.path[2] if len(self.path) > 2 else ""  # noqa: PLR2004 - section, name, key


def pasteable(suggestions: Iterable[Suggestion]) -> Mapping[str, str]:
    """By file: YAML to paste over the same keys (`null` takes one away), the evidence in comments above each."""
    files: dict[str, list[Suggestion]] = {}
    for one in suggestions:
        files.setdefault(one.rule.file, []).append(one)
    return {file: "\n".join(_yaml(found)) for file, found in files.items()}


def _yaml(found: list[Suggestion]) -> Iterator[str]:
    """Keys of one entry stand together, whatever order they come in."""
    tree: dict[str, dict[str, list[Suggestion]]] = {}
    for one in found:
        tree.setdefault(one.path[0], {}).setdefault(one.path[1], []).append(one)
    for section, entries in tree.items():
        yield f"{section}:"
        for name, ones in entries.items():
            if not ones[0].key:
                yield f"  # {ones[0].evidence}"
                yield f"  {quote(name)}: {_scalar(ones[0].value)}"
                continue
            yield f"  {quote(name)}:"
            for one in ones:
                yield f"    # {one.evidence}"
                yield f"    {one.key}: {_scalar(one.value)}"


def _scalar(value: JsonValue) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(quote(item) for item in value) + "]"
    return "null" if value is None else quote(value) if isinstance(value, str) else str(value)
