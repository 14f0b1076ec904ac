"""What takes anything: any workflow for what is dangerous, any certificate for a workload."""

from __future__ import annotations

from collections.abc import Iterator

from broker.model import Tier
from broker.policy.lint.finding import Finding, Level, Rule, at, listed
from broker.policy.lint.subject import Subject
from broker.policy.patterns import Capture
from broker.policy.problems import show

ANY_WORKFLOW = Rule(
    id="any-workflow",
    level=Level.WARNING,
    title="Any workflow may have an elevated or high scope",
    help='Name the workflows: with ["*"] whoever can run some step of these workloads, in a workflow made for it, has '
    "the scope.",
)
ANY_CERTIFICATE = Rule(
    id="any-certificate",
    level=Level.WARNING,
    title="A workload that any certificate of this length fits",
    help="Put a literal segment into its id: every certificate that the authority ever signs with as many segments is "
    "this workload.",
)

RULES = (ANY_WORKFLOW, ANY_CERTIFICATE)


def check(subject: Subject) -> Iterator[Finding]:
    """Every rule of this module."""
    for grant in subject.map.grants.values():
        risky = [f"{show(one.name)} ({one.tier.value})" for one in subject.scopes_of(grant) if one.tier is not Tier.LOW]
        if grant.workflows is None and risky:
            yield at(
                subject.of_grant(grant, "workflows"),
                ANY_WORKFLOW,
                f"any workflow may have {listed(risky)} by grant {grant.rule.name}",
            )
    for workload in subject.map.workloads.values():
        if all(isinstance(segment, Capture) for segment in workload.pattern.segments):
            message = f"any certificate of {len(workload.pattern.segments)} segments is workload {show(workload.name)}"
            yield at(workload.rule, ANY_CERTIFICATE, message)
