"""`stepcred exec`: a step around one command."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import stepcred
from stepcred._credentials import Credential
from stepcred._errors import NeedsApproval, StepcredError
from stepcred._models import Access
from stepcred._outlets import Unusable, left_out, merged_environment, without_rivals
from stepcred._settings import HANDLE
from stepcred.cli import _exits
from stepcred.cli._child import Interrupted, SignalRelay


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What was asked on the command line; None is taken from the environment."""

    scopes: Sequence[str]
    argv: Sequence[str]
    workflow: str | None
    run: str | None
    step: str | None
    handle: str = ""  # of a step that a launcher opened; then it has its names
    approval_timeout: timedelta | None = None  # how long to wait for operators; None: not at all


def run(job: Job) -> int:
    """The child's exit code, or one of ours when it was never started. All credentials end with it."""
    code: int | None = None
    step: stepcred.Step | None = None
    try:
        with SignalRelay() as relay, stepcred.connect() as broker:
            if job.handle:
                step = broker.join(job.handle)
            else:
                step = broker.step(workflow=job.workflow, run=job.run, step=job.step, scopes=job.scopes)
            with step:
                code = _in_step(step, job, relay)
            say(step.summary())
    except StepcredError as error:
        for line in _exits.lines_of(error):
            say(line)
        # What the child did is done; a failed end of the step does not change its result.
        return _exits.exit_code(error) if code is None else code
    except Interrupted as interrupted:
        for line in getattr(interrupted, "__notes__", []) or ([step.summary()] if step and step.deadline else []):
            say(line)
        return interrupted.exit_code
    return code


def _in_step(step: stepcred.Step, job: Job, relay: SignalRelay) -> int:
    verdicts = step.check(job.scopes) if job.handle else step.verdicts
    refused = [verdict for verdict in verdicts if verdict.access not in (Access.GRANTED, Access.NEEDS_APPROVAL)]
    if refused:  # before anything is minted for the others
        for verdict in refused:
            say(*explain(verdict))
        return _exits.DENIED
    issued = _issued(step, job, [one.scope for one in verdicts if one.access is Access.NEEDS_APPROVAL])
    if issued is None:
        return _exits.RETRY_LATER
    try:
        environ = child_environment(issued, os.environ)
        return relay.run(job.argv, environ)
    except (Unusable, ValueError) as problem:  # ValueError: a NUL in a value, which no environment can hold
        say(str(problem))
        return _exits.USAGE
    except OSError as error:
        say(f"{job.argv[0]}: {error.strerror}")
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        return _exits.NOT_FOUND if missing else _exits.NOT_EXECUTABLE


def _issued(step: stepcred.Step, job: Job, unapproved: Sequence[str]) -> list[Credential] | None:
    """All credentials; None when operators must approve first, and we do not wait for them.

    Every approval is asked for before the first is waited for, and nothing is minted before all are there: what came
    first would be old by then.
    """
    early: dict[str, Credential] = {}
    waiting: list[NeedsApproval] = []
    for scope in unapproved:
        try:
            early[scope] = step.issue(scope)  # this is what asks; approved at this very moment, it is issued
        except NeedsApproval as needed:
            waiting.append(needed)
    if waiting and job.approval_timeout is None:
        for one in waiting:
            say(_who_must_approve("needs", one))
        return None
    if waiting and job.approval_timeout is not None:
        step.wait_for_approval(
            waiting,
            approval_timeout=job.approval_timeout,
            on_waiting=lambda now: say(_who_must_approve("waiting for", now)),
        )
    return [early[scope] if scope in early else step.issue(scope) for scope in job.scopes]


def _who_must_approve(what: str, needed: NeedsApproval) -> str:
    by = approval(
        needed.approval_id, given=needed.approvals_given, of=needed.approvals_needed, until=needed.approval_expires_at
    )
    return (
        f"{needed.scope}: {what} approval {by}; an operator runs: stepcred admin approvals approve {needed.approval_id}"
    )


def approval(approval_id: str, *, given: int, of: int, until: datetime | None) -> str:
    """For people: "abcd (1 of 2), until 2026-11-28 10:05Z"."""
    return f"{approval_id} ({given} of {of})" + (f", until {until.astimezone(UTC):%Y-%m-%d %H:%MZ}" if until else "")


def child_environment(issued: Sequence[Credential], environ: Mapping[str, str]) -> dict[str, str]:
    """Ours, without what would be used instead of the credentials, and with them. Raises Unusable."""
    variables = merged_environment(issued)
    for credential in issued:
        if unusable := left_out(credential):
            say(f"{credential.lease.scope}: left out, not usable as variables: {', '.join(unusable)}")
    child = {**without_rivals(environ, issued), **variables}
    child.pop(HANDLE, None)  # a stepcred in the child would join our step, and end it when it is done
    return child


def explain(verdict: stepcred.ScopeVerdict) -> list[str]:
    """Why a scope is not to be had, as far as the broker tells, and what would change it."""
    lines = [f"{verdict.scope}: {verdict.access.value.lower().replace('_', ' ')} [{verdict.reason}]"]
    if verdict.approval_id:
        given, of = verdict.approvals_given, verdict.approvals_needed
        lines.append(
            f"  approval   {approval(verdict.approval_id, given=given, of=of, until=verdict.approval_expires_at)}"
        )
    elif verdict.approvals_needed:
        lines.append(
            f"  approval   by {verdict.approvals_needed}; it is asked for when the step asks for the credential"
        )
    if verdict.rule:
        lines.append(f"  rule       {verdict.rule}" + (f" ({verdict.position})" if verdict.position else ""))
    if verdict.smallest_fix:
        lines.append("  would fix  " + "\n             ".join(verdict.smallest_fix.splitlines()))
    if verdict.reference_id:
        lines.append(f"  reference  {verdict.reference_id}")
    return lines


def say(first: str, *more: str) -> None:
    """To stderr: stdout is the child's. A stderr that is closed or full does not change what becomes of the child."""
    if sys.stderr is not None:  # print would take stdout
        with contextlib.suppress(OSError):
            print(f"stepcred: {first}", *more, sep="\n", file=sys.stderr, flush=True)  # noqa: T201
