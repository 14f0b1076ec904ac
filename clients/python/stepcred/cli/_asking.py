"""`can` and `whoami`: what could be had, asked without opening a step."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import stepcred
from stepcred.cli import _exec, _exits, _spans
from stepcred.cli._completing import scopes
from stepcred.cli._names import Json, Run, StepOption, Workflow
from stepcred.cli._say import as_json_text, say

_SILENT = "this broker does not tell what a credential could do: it is older than --show-policy"


def can(
    scope: Annotated[str, typer.Argument(metavar="SCOPE", autocompletion=scopes)],
    *,
    workflow: Workflow = None,
    run: Run = None,
    step: StepOption = None,
    show_policy: Annotated[
        bool, typer.Option("--show-policy", help="Tell what the credential would be able to do.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Say whether the step could have SCOPE, and if not, why. Opens nothing, mints nothing, costs nothing.

    Exit code 0: yes; 1: no, or not before operators have approved it; 64 usage, 69 broker unavailable, 75 later, 77 the
    certificate is refused, 78 settings.
    """
    with stepcred.connect() as broker:
        (verdict,) = broker.check(workflow=workflow, run=run, step=step, scopes=[scope], show_policy=show_policy)
    if as_json:
        _print(as_json_text(verdict))
    else:
        _print("\n".join(_told(verdict)))
    if show_policy and verdict.policy is None and _may_be_had(verdict):
        say(_SILENT)
    return 0 if verdict.granted else _exits.FOUND_SOMETHING


def whoami(*, as_json: Json = False) -> int:
    """Show what the broker makes of this certificate, and every scope within its reach."""
    with stepcred.connect() as broker:
        identity = broker.whoami()
    if as_json:
        _print(as_json_text(identity))
        return 0
    console = Console(soft_wrap=not (sys.stdout and sys.stdout.isatty()), markup=False, highlight=False)
    console.print(_identity(identity))
    if identity.reach:
        _print("\n".join(["", *_reach(identity)]))
    return 0


def _told(verdict: stepcred.ScopeVerdict) -> Iterator[str]:
    if verdict.granted:
        life = f" for {_spans.shown(verdict.ttl)}" if verdict.ttl else ""
        yield f"yes: {verdict.scope}{life} (tier {verdict.tier.value.lower()}, {verdict.revocability.value})"
    else:
        yield "no: " + "\n".join(_exec.explain(verdict))
    if verdict.policy is not None:
        yield from _policy(verdict.policy)


def _may_be_had(verdict: stepcred.ScopeVerdict) -> bool:
    return verdict.access in (stepcred.Access.GRANTED, stepcred.Access.NEEDS_APPROVAL)


def _policy(policy: Mapping[str, Any]) -> Iterator[str]:
    """The broker's sentences, and then all of it as it is asked of the provider. Whatever a newer broker adds is left alone."""
    for words in _texts(policy.get("in_words")):
        yield f"  {words}"
    for key, what in (("cannot_be_issued", "cannot be issued"), ("left_out", "not shown")):
        if key in policy:
            yield f"  {what}: {policy[key]}"
    provider = str(policy.get("provider"))
    if provider in policy:
        yield json.dumps({provider: policy[provider]}, indent=2)


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _identity(identity: stepcred.Identity) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("identity", identity.spiffe_id)
    table.add_row("environment", identity.environment)
    for name, captures in identity.workloads.items():
        table.add_row("workload", " ".join([name, *(f"{key}={value}" for key, value in captures.items())]))
    table.add_row("scopes", ", ".join(identity.scopes) or "none")
    if identity.certificate_not_after:
        end, now = identity.certificate_not_after, identity.server_time or datetime.now(UTC)
        table.add_row("certificate", f"valid until {end:%Y-%m-%d %H:%M} UTC, {_spans.left(end - now)} left")
    table.add_row("sha256", identity.certificate_sha256)
    return table


def _reach(identity: stepcred.Identity) -> Iterator[str]:
    """A line for each scope, and below it one for each grant: any of them is enough."""
    rows = [("SCOPE", "FROM", "TIER", "LASTS")]
    rows += [(one.scope, one.provider, one.tier.value.lower(), _life(one)) for one in identity.reach]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    yield head
    for line, scope in zip(lines, identity.reach, strict=True):
        yield line
        for grant in scope.grants:
            yield f"  {grant.rule} ({grant.position}): {', '.join(_conditions(grant))}"
        if scope.grants_left_out:
            yield f"  and {scope.grants_left_out} more grants"
        for words in scope.refused_by:
            yield f"  {words}"
    if identity.reach_left_out:
        yield f"{identity.reach_left_out} more are not shown; ask for each of them: stepcred can SCOPE"


def _life(scope: stepcred.ReachableScope) -> str:
    if scope.ttl is None:
        return ""
    longer = scope.max_ttl if scope.max_ttl is not None and scope.max_ttl > scope.ttl else None
    return _spans.shown(scope.ttl) + (f", with successors {_spans.shown(longer)}" if longer else "")


def _conditions(grant: stepcred.ReachingGrant) -> Iterator[str]:
    more = f" and {grant.workflows_left_out} more" if grant.workflows_left_out else ""
    yield f"workflow {' or '.join(grant.workflows)}{more}" if grant.workflows else "any workflow"
    if grant.max_step:
        yield f"steps up to {_spans.shown(grant.max_step)}"
    if grant.approvals_needed:
        yield f"needs {grant.approvals_needed} approval{'s' if grant.approvals_needed > 1 else ''}"
    yield from grant.conditions


def _print(text: str) -> None:
    print(text)  # noqa: T201
