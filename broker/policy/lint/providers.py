"""What a provider itself remarks on a scope's block."""

from __future__ import annotations

from collections.abc import Iterator

from broker.policy.lint.finding import Finding, Level, Rule, at
from broker.policy.lint.subject import Subject
from broker.policy.problems import show


def check(subject: Subject) -> Iterator[Finding]:
    """Every remark, under a rule whose id begins with the provider's name."""
    for scope in subject.map.scopes.values():
        for remark in subject.kinds[scope.provider].warnings(scope.block):
            name = f"{scope.provider}-{remark.rule}"
            title = name.replace("-", " ")
            rule = Rule(id=name, level=Level.WARNING, title=title, help=remark.help)
            yield at(
                subject.of_scope(scope, scope.provider, *remark.path),
                rule,
                f"scope {show(scope.name)}: {remark.message}",
            )
