"""A simulation as an operator reads it, and as a program does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from broker.model import JsonValue, RuleRef
from broker.policy.problems import show
from broker.policy.usage.events import Outcome, Period
from broker.policy.usage.simulate import Difference, Simulation

_SHOWN = 20  # names in a line; --json has them all
Line = tuple[str, str]  # style, text


def lines(result: Simulation) -> Iterator[Line]:
    """Plain text, most important first. What agents and files say is quoted."""
    for one in result.ordered():
        yield from _difference(one)
    for change, count in result.beyond.items():
        yield "yellow", f"{change.value}: {count} further requests, of more groups than are told"
    for section, rules in result.never_used().items():
        if rules:
            yield "", f"never used: {section} {_listed(rules)}"
    for why, count in result.unusable.most_common():
        yield "", f"not replayed: {count} ({show(why)[1:-1]})"
    if counted := result.uncounted.total():
        yield "", f"not replayed: {counted} refusals of storms that the journal holds only as numbers"
    yield "", f"{result.replayed} requests replayed, {result.same} answered as they were; {result.period}"


def _difference(one: Difference) -> Iterator[Line]:
    asked = one.example.request
    mark = " (widens)" if one.change.widens else ""
    style = "bold yellow" if one.change.widens else "bold red"
    yield style, f"{one.change.value}{mark}: {show(one.group.scope)} to {_who(one)}, workflow {show(asked.workflow)}"
    yield "", f"  {_times(one)}, {one.first:%Y-%m-%d %H:%M} to {one.last:%Y-%m-%d %H:%M} UTC"
    said = f" (reference {show(one.example.reference)})" if one.example.reference else ""
    yield "", f"  for example run {show(asked.run)}, step {show(asked.step)} of {show(asked.agent)}{said}"
    if one.answer.outcome is Outcome.REFUSED:
        yield "", f"  {one.answer.reason}: {one.answer.message}"
    elif one.example.outcome is Outcome.REFUSED:
        yield "", f"  was refused: {show(one.example.reason)[1:-1]}"
        if one.answer.outcome is Outcome.APPROVAL:
            yield "", "  after approval"
    if one.answer.rule is not None:
        yield "", f"  rule: {_place(one.answer.rule)}"
    if one.answer.fix:
        yield "", "  smallest change that would allow it:"
        yield from (("", f"    {line}") for line in one.answer.fix.split("\n"))


def _who(one: Difference) -> str:
    return show(one.group.who)


def _times(one: Difference) -> str:
    parts = []
    if one.asked:
        parts.append(f"asked for {one.asked}x")
    if one.named:
        parts.append(f"named at the beginning of {one.named} step{'' if one.named == 1 else 's'}")
    return ", ".join(parts)


def _listed(rules: Iterable[RuleRef]) -> str:
    names = [f"{rule.name.rpartition('.')[2] if '.' in rule.name else rule.name} ({rule.position})" for rule in rules]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _place(rule: RuleRef) -> str:
    return f"{rule.name} ({rule.file}:{rule.line}:{rule.column})"


def to_json(result: Simulation) -> Mapping[str, JsonValue]:
    """For `--json`; keys are stable."""
    return {
        "map": {"file": result.map.file, "digest": result.map.digest},
        "journal": period_json(result.period),
        "replayed": result.replayed,
        "same": result.same,
        "differences": [_difference_json(one) for one in result.ordered()],
        "beyond_limit": {change.value: count for change, count in result.beyond.items()},
        "never_used": {section: [rule_json(rule) for rule in rules] for section, rules in result.never_used().items()},
        "not_replayed": dict(result.unusable),
        "counted_only": dict(result.uncounted),
    }


def _difference_json(one: Difference) -> JsonValue:
    asked = one.example.request
    return {
        "change": one.change.value,
        "widens": one.change.widens,
        "who": one.group.who,
        "scope": one.group.scope,
        "workflow": one.group.workflow,
        "was": one.group.was,
        "would_be": one.group.would_be,
        "reason": one.group.reason,
        "message": one.answer.message,
        "rule": rule_json(one.answer.rule),
        "smallest_fix": one.answer.fix,
        "asked": one.asked,
        "named": one.named,
        "first": one.first.isoformat(),
        "last": one.last.isoformat(),
        "example": {
            "agent": asked.agent,
            "run": asked.run,
            "step": asked.step,
            "at": asked.now.isoformat(),
            "reference": one.example.reference,
        },
    }


def period_json(period: Period) -> JsonValue:
    """What was read."""
    return {
        "records": period.records,
        "first": period.first.isoformat() if period.first else None,
        "last": period.last.isoformat() if period.last else None,
        "days": round(period.span.total_seconds() / 86400, 2),
    }


def rule_json(rule: RuleRef | None) -> JsonValue:
    """Where a rule stands."""
    return rule and {"name": rule.name, "file": rule.file, "line": rule.line, "column": rule.column}
