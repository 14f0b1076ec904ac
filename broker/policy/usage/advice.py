"""Suggestions as an operator reads them, and as a program does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from broker.model import JsonValue
from broker.policy.problems import show
from broker.policy.usage.suggest import SHORT, Advice
from broker.policy.usage.suggestion import pasteable
from broker.policy.usage.told import Line, period_json, rule_json


def cautions(advice: Advice) -> list[str]:
    """What to think of before pasting."""
    usage, found = advice.usage, []
    if usage.period.span < SHORT:
        found.append(f"only {usage.period}: what is needed once a month or less has perhaps not been seen")
    if usage.refused:
        found.append(f"{usage.refused} requests that were allowed then are refused by this map; they count for nothing")
    if odd := sum(count for why, count in usage.unusable.items() if not why.startswith("refused by")):
        found.append(f"{odd} records could not be asked again; they count for nothing")
    return found


def lines(advice: Advice) -> Iterator[Line]:
    """The YAML, and in comments everything else: all of it can be pasted."""
    for caution in cautions(advice):
        yield "yellow", f"# caution: {caution}"
    for file, yaml in pasteable(advice.suggestions).items():
        yield "bold", f"# {show(file)[1:-1]}: paste over the same keys; null takes a key away"
        yield from (("", line) for line in yaml.split("\n"))
    for note in (*advice.untaken, *advice.kept):
        yield "", f"# {note}"
    if not advice.suggestions:
        yield "green", f"# nothing to narrow, by {advice.usage.period}"
    else:
        yield "", "# then: scopes test, and scopes simulate with the same journal"


def to_json(advice: Advice) -> Mapping[str, JsonValue]:
    """For `--json`; keys are stable."""
    usage = advice.usage
    return {
        "map": {"file": usage.map.file, "digest": usage.map.digest},
        "journal": period_json(usage.period),
        "cautions": cautions(advice),
        "suggestions": [
            {"rule": rule_json(one.rule), "path": list(one.path), "value": one.value, "evidence": one.evidence}
            for one in advice.suggestions
        ],
        "yaml": dict(pasteable(advice.suggestions)),
        "named_never_asked": list(advice.untaken),
        "kept": list(advice.kept),
    }
