"""What a provider itself remarks on a scope's block, and on its scopes together."""

from __future__ import annotations

from collections.abc import Iterator

from broker.model import NamedBlock, Remark
from broker.policy.lint.finding import Finding, Level, Rule, at
from broker.policy.lint.subject import Subject
from broker.policy.problems import show
from broker.policy.rules import Scope


def check(subject: Subject) -> Iterator[Finding]:
    """Every remark, under a rule whose id begins with the provider's name."""
    scopes = subject.map.scopes
    for scope in scopes.values():
        for remark in subject.kinds[scope.provider].warnings(scope.block):
            yield _finding(subject, scope, remark)
    for name, kind in subject.kinds.items():
        blocks = [
            NamedBlock(scope=scope.name, block=scope.block, ttl=scope.ttl)
            for scope in scopes.values()
            if scope.provider == name
        ]
        for where, remark in kind.joint_warnings(blocks):
            yield _finding(subject, scopes[where], remark)


def _finding(subject: Subject, scope: Scope, remark: Remark) -> Finding:
    name = f"{scope.provider}-{remark.rule}"
    level = Level.NOTE if remark.note else Level.WARNING
    rule = Rule(id=name, level=level, title=name.replace("-", " "), help=remark.help)
    place = subject.of_scope(scope, scope.provider, *remark.path)
    return at(place, rule, f"scope {show(scope.name)}: {remark.message}")
