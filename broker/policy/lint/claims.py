"""What rests on claims, and what only a launcher can prove."""

from __future__ import annotations

from collections.abc import Iterator

from broker.model import Tier
from broker.policy.launch import Launcher
from broker.policy.lint.finding import Finding, Level, Rule, at, listed
from broker.policy.lint.subject import Subject
from broker.policy.patterns import BINDING
from broker.policy.problems import show
from broker.policy.rules import Grant, Scope, Workload
from broker.policy.templates import VALUE
from broker.policy.windows import Phase

ON_CLAIMS = Rule(
    id="high-on-claims",
    level=Level.WARNING,
    title="A high scope for whoever claims the right workflow",
    help="Capture {workflow} in the workload's id, or pin definition_digest and let a launcher open the steps: a claim "
    "is the step's own word.",
)
NO_LAUNCHER = Rule(
    id="no-launcher",
    level=Level.WARNING,
    title="A grant that needs a launcher, and there is none",
    help="Declare under launchers: who opens this workload's steps, for these workflows and digests; or capture the "
    "variable in the workload's id; or unpin the digest.",
)
UNUSED_LAUNCHER = Rule(
    id="unused-launcher",
    level=Level.NOTE,
    title="A launcher whose workloads need none",
    help="Remove it, or pin definition_digest in their grants: nothing of these workloads depends on what it proves.",
)
RUN_IN_TEMPLATE = Rule(
    id="run-in-template",
    level=Level.WARNING,
    title="{run} in a template",
    help="A template's value is 1 to 64 of A-Z a-z 0-9 _ -. Airflow's run ids (scheduled__2026-01-01T00:00:00+00:00) "
    "never fit, and such requests end in TEMPLATE_VALUE. Use {workflow}, or a scheduler with plain run ids.",
)
NEVER_FITS = Rule(
    id="template-never-fits",
    level=Level.WARNING,
    title="A workflow whose name never fits the template",
    help="A template's value is 1 to 64 of A-Z a-z 0-9 _ -. Rename the workflow, or give it a scope without {workflow}.",
)

RULES = (ON_CLAIMS, NO_LAUNCHER, UNUSED_LAUNCHER, RUN_IN_TEMPLATE, NEVER_FITS)


def check(subject: Subject) -> Iterator[Finding]:
    """Every rule of this module."""
    for grant in subject.map.grants.values():
        for number, workload in enumerate(subject.workloads_of(grant)):
            yield from _on_claims(subject, grant, workload, number)
            yield from _unlaunched(subject, grant, workload, number)
        for number, scope in enumerate(subject.scopes_of(grant)):
            odd = [show(name) for name in sorted(grant.workflows or ()) if not VALUE.fullmatch(name)]
            if odd and "workflow" in scope.variables:
                message = f"workflow {listed(odd)} never fits {{workflow}} of scope {show(scope.name)}"
                yield at(subject.of_grant(grant, "scopes", number), NEVER_FITS, message)
    for scope in subject.map.scopes.values():
        if "run" in scope.variables:
            message = f"scope {show(scope.name)} uses {{run}}: Airflow's run ids never fit"
            yield at(subject.of_scope(scope, scope.provider), RUN_IN_TEMPLATE, message)
    yield from _idle_launchers(subject)


def _proof_needed(grant: Grant, scope: Scope, workload: Workload) -> list[str]:
    """Why only a step that a launcher opened can have this scope."""
    found = ["definition_digest"] if grant.digests is not None else []
    unproven = scope.variables & {*BINDING} - {*workload.pattern.captures}
    return found + [f"{{{name}}} of scope {show(scope.name)}" for name in sorted(unproven)]


def _on_claims(subject: Subject, grant: Grant, workload: Workload, number: int) -> Iterator[Finding]:
    if grant.workflows is None or "workflow" in workload.pattern.captures:
        return
    high = [
        show(scope.name)
        for scope in subject.scopes_of(grant)
        if scope.tier is Tier.HIGH and not _proof_needed(grant, scope, workload)
    ]
    if high:
        message = f"workload {show(workload.name)} only claims its workflow, and gets {listed(high)} (high) for it"
        yield at(subject.of_grant(grant, "workloads", number), ON_CLAIMS, message)


def _unlaunched(subject: Subject, grant: Grant, workload: Workload, number: int) -> Iterator[Finding]:
    needs = {scope.name: _proof_needed(grant, scope, workload) for scope in subject.scopes_of(grant)}
    why = list(dict.fromkeys(reason for reasons in needs.values() for reason in reasons))
    if not why or any(_opens(one, grant, workload, subject) for one in subject.map.launchers.all):
        return
    never = "never allows" if all(needs.values()) else "does not always allow"
    message = (
        f"grant {grant.rule.name} {never}: {listed(why)} needs a launcher, "
        f"and no launcher opens such steps for workload {show(workload.name)}"
    )
    yield at(subject.of_grant(grant, "workloads", number), NO_LAUNCHER, message)


def _opens(launcher: Launcher, grant: Grant, workload: Workload, subject: Subject) -> bool:
    """Could it open a step that this grant is for?"""
    return (
        workload.name in launcher.workloads
        and _meet(launcher.workflows, grant.workflows)
        and _meet(launcher.digests, grant.digests)
        and launcher.when.look(subject.now)[0] is not Phase.OVER
    )


def _meet(one: frozenset[str] | None, other: frozenset[str] | None) -> bool:
    """None = everything."""
    return one is None or other is None or bool(one & other)


def _idle_launchers(subject: Subject) -> Iterator[Finding]:
    needing = {
        workload.name
        for grant in subject.map.grants.values()
        for workload in subject.workloads_of(grant)
        if any(_proof_needed(grant, scope, workload) for scope in subject.scopes_of(grant))
    }
    for launcher in subject.map.launchers.all:
        if not launcher.workloads & needing:
            message = f"no grant needs what launcher {show(launcher.name)} proves"
            yield at(launcher.rule, UNUSED_LAUNCHER, message)
