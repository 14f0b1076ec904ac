"""Why a condition does not hold, and the smallest change that would make it hold: (message, fix).

A fix is YAML to paste over the same keys, or a sentence. What an agent said is always quoted in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from broker.policy.decision import AccessRequest
from broker.policy.problems import did_you_mean, quote, show
from broker.policy.rules import Deny, Grant, Scope, Workload
from broker.policy.windows import Phase

Words: TypeAlias = tuple[str, str]
_SHOWN = 20  # entries of a list; a fix is for reading


def _list(values: Iterable[str]) -> str:
    known = list(values)
    more = ["…"] if len(known) > _SHOWN else []
    return "[" + ", ".join([quote(value) for value in known[-_SHOWN:]] + more) + "]"


def _in_grant(grant: Grant, line: str) -> str:
    return f"grants:\n  {quote(grant.name)}:\n    {line}"


def unknown_scope(name: str, scopes: Iterable[str]) -> Words:
    """1: not declared."""
    return f"no scope is named {show(name)}{did_you_mean(name, scopes)}", "declare it under scopes:, and grant it"


def no_workload(request: AccessRequest) -> Words:
    """2: the certificate fits nothing."""
    return "no workload's id matches this certificate", f"workloads:\n  new-workload:\n    id: {quote(request.agent)}"


def no_grant(near: Grant | None, workload: str, request: AccessRequest) -> Words:
    """3: granted to others, or to nobody."""
    message = f"no grant gives {show(request.scope)} to workload {show(workload)}"
    if near is not None:
        return message, _in_grant(near, f"scopes: {_list([*near.scopes, request.scope])}")
    lines = (
        f"workloads: [{quote(workload)}]",
        f"workflows: [{quote(request.workflow)}]",
        f"scopes: [{quote(request.scope)}]",
    )
    return message, "grants:\n  new-grant:\n" + "\n".join(f"    {line}" for line in lines)


def claim_mismatch(name: str, proven: str, claimed: str) -> Words:
    """4: the step says something else than its certificate."""
    message = f"the step claims {name} {show(claimed)}, its certificate says {show(proven)}"
    return message, f"begin the step with {name} {quote(proven)}, or give it the certificate of {quote(claimed)}"


def deny_rule(deny: Deny, request: AccessRequest, *, workflow_known: bool) -> Words:
    """5: deny wins."""
    message = f"deny rule {show(deny.name)} refuses it"
    if deny.workflows is not None and request.workflow not in deny.workflows and not workflow_known:
        message += "; it names workflows, and this step's workflow is only its own claim"
        fix = f"limit denies.{quote(deny.name)} with workloads:, or let the workload's id capture {{workflow}}"
        return message, fix
    return message, f"narrow or remove denies.{quote(deny.name)}"


def workflow(grant: Grant, name: str) -> Words:
    """6: another workflow."""
    message = f"grant {show(grant.name)} does not name workflow {show(name)}"
    return message, _in_grant(grant, f"workflows: {_list([*sorted(grant.workflows or ()), name])}")


def digest_unproven(grant: Grant) -> Words:
    """6: pinned, and nobody proved the definition."""
    message = f"grant {show(grant.name)} pins the workflow's definition, which only a launcher can prove"
    return message, f"let a launcher open the step, or remove grants.{quote(grant.name)}.definition_digest"


def digest(grant: Grant, proven: str) -> Words:
    """6: the definition has changed."""
    message = f"the workflow's definition is not one that grant {show(grant.name)} pins"
    return message, _in_grant(grant, f"definition_digest: {_list([*sorted(grant.digests or ()), proven])}")


def over(grant: Grant) -> Words:
    """6: past `until`."""
    end = f"{grant.when.until:%Y-%m-%dT%H:%MZ}" if grant.when.until else ""
    return f"grant {show(grant.name)} ended at {end}", f"set a later grants.{quote(grant.name)}.when.until"


def outside(grant: Grant, phase: Phase) -> Words:
    """6: not at this time of day."""
    if phase is Phase.UNKNOWN:
        return (
            f"the time conditions of grant {show(grant.name)} cannot be evaluated",
            "ask with a time that has a zone",
        )
    return (
        f"grant {show(grant.name)} holds {grant.when.daily}",
        f"ask {grant.when.daily}, or widen grants.{quote(grant.name)}.when.daily",
    )


def too_short(grant: Grant) -> Words:
    """6: what is left is less than a lease's shortest life."""
    message = f"less than 60s are left of grant {show(grant.name)}"
    return message, f"ask earlier, or widen grants.{quote(grant.name)}.when"


def variable_unproven(scope: Scope, workload: Workload, name: str) -> Words:
    """6: a template needs what is only claimed."""
    message = f"scope {show(scope.name)} uses {{{name}}}, which workload {show(workload.name)} only claims"
    return message, f"capture {{{name}}} in workloads.{quote(workload.name)}.id, or let a launcher open the step"


def variable_value(scope: Scope, name: str, value: str) -> Words:
    """6: a value that must not get into a policy."""
    message = f"{name} {show(value)} must not fill {{{name}}} of scope {show(scope.name)}"
    return message, "a template's value is 1 to 64 of A-Z a-z 0-9 _ -; rename it, or do not use the variable"
