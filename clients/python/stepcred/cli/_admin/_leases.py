"""`admin leases` and `admin steps`: what is alive, and the kill switch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import Enum
from typing import Annotated, Any

import typer

from stepcred._admin import Office
from stepcred.cli import _exits
from stepcred.cli._admin import _options as o
from stepcred.cli._admin._consent import typed
from stepcred.cli._admin._listing import listing
from stepcred.cli._admin._output import Column, ago, as_json, left, many, now, plain, say, table

leases = typer.Typer(no_args_is_help=True, help="Credentials: which are alive, and the kill switch.")
steps = typer.Typer(no_args_is_help=True, help="Steps: which are open, and their end.")

_STYLES = {"IN_DOUBT": "bold red", "REVOKING": "yellow", "INTENT": "cyan", "ACTIVE": "green", "high": "bold"}


class State(Enum):
    """Of a lease."""

    INTENT = "INTENT"
    ACTIVE = "ACTIVE"
    REVOKING = "REVOKING"
    IN_DOUBT = "IN_DOUBT"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"
    VOID = "VOID"


_TERMINAL = frozenset({"REVOKED", "EXPIRED", "VOID"})


def where(row: Any) -> str:
    """A step's names, in one word."""
    return f"{row.workflow}/{row.run}/{row.step}"


@leases.command("list")
def list_leases(
    *,
    agent: o.Agent = "",
    workflow: o.Workflow = "",
    run: o.Run = "",
    step: o.StepName = "",
    scope: o.Scope = "",
    provider: o.Provider = "",
    state: Annotated[State | None, typer.Option(help="In this state.", case_sensitive=False)] = None,
    ended: o.Ended = False,
    limit: o.Limit = o.MANY,
    every: o.Watch = None,
    as_json_: o.Json = False,
) -> int:
    """Show leases, the newest first."""
    ended = ended or (state is not None and state.value in _TERMINAL)
    asked = o.selection(agent=agent, workflow=workflow, run=run, step=step, scope=scope, provider=provider)
    return listing(
        "ListLeases",
        "leases",
        print_leases,
        limit=limit,
        every=every,
        json_too=as_json_,
        keep=lambda row: state is None or row.state == state.value,
        selection=asked,
        ended_too=ended,
    )


def print_leases(found: Sequence[Any]) -> None:
    """As a table; with what is in the way, where something is."""
    at = now()
    columns = [
        Column(title="LEASE", fixed=True),
        Column(title="STATE", fixed=True),
        Column(title="TIER", fixed=True),
        Column(title="SCOPE"),
        Column(title="WORKFLOW/RUN/STEP"),
        Column(title="AGE", fixed=True, right=True),
        Column(title="LEFT", fixed=True, right=True),
    ]
    rows = [_lease_row(row, at) for row in found]
    if any(map(_problem, found)):
        columns.append(Column(title="IN THE WAY", words=True))
        rows = [(*told, _problem(row)) for told, row in zip(rows, found, strict=True)]
    table(columns, rows, styles=_STYLES)


def _lease_row(row: Any, at: datetime) -> tuple[str, ...]:
    ends = row.evidence if row.HasField("ended_at") else left(row.lease.expires_at, at)
    state = f"{row.state}, DOOMED" if row.doomed and row.state == "INTENT" else row.state
    return (row.lease.lease_id, state, row.tier, row.lease.scope, where(row), ago(row.intent_at, at), ends)


def _problem(row: Any) -> str:
    """Of what is not over yet."""
    return f"{row.last_problem} ({row.attempts} tries)" if row.last_problem and not row.HasField("ended_at") else ""


@leases.command("revoke")
def revoke(
    lease: Annotated[list[str] | None, typer.Argument(metavar="[LEASE]...", help="These alone.")] = None,
    *,
    agent: o.Agent = "",
    workflow: o.Workflow = "",
    run: o.Run = "",
    step: o.StepName = "",
    scope: o.Scope = "",
    provider: o.Provider = "",
    everything: o.Everything = False,
    end_steps: Annotated[
        bool, typer.Option("--end-steps", help="With the open steps, so that they ask for nothing more.")
    ] = False,
    reason: o.Reason = "",
    dry_run: o.DryRun = False,
    yes: o.Yes = False,
    as_json_: o.Json = False,
) -> int:
    """Revoke whatever fits every option that is given, also what is being minted now. Exit code 1: nothing fits.

    First it shows what would die, then somebody types how many that are, or with --all the environment's name.
    """
    asked = o.must_select(
        agent=agent,
        workflow=workflow,
        run=run,
        step=step,
        scope=scope,
        provider=provider,
        lease_ids=lease or [],
        everything=everything,
    )
    return _revoke(asked, end_steps=end_steps, reason=reason, dry_run=dry_run, yes=yes, json_too=as_json_)


@steps.command("list")
def list_steps(
    *,
    agent: o.Agent = "",
    workflow: o.Workflow = "",
    run: o.Run = "",
    step: o.StepName = "",
    scope: o.Scope = "",
    ended: o.Ended = False,
    limit: o.Limit = o.MANY,
    every: o.Watch = None,
    as_json_: o.Json = False,
) -> int:
    """Show steps, the newest first."""
    asked = o.selection(agent=agent, workflow=workflow, run=run, step=step, scope=scope)
    return listing(
        "ListSteps",
        "steps",
        print_steps,
        limit=limit,
        every=every,
        json_too=as_json_,
        selection=asked,
        ended_too=ended,
    )


def print_steps(found: Iterable[Any]) -> None:
    """As a table."""
    at = now()
    columns = (
        Column(title="WORKFLOW/RUN/STEP"),
        Column(title="TRY", fixed=True, right=True),
        Column(title="AGENT"),
        Column(title="OPEN", fixed=True, right=True),
        Column(title="HEARD", fixed=True, right=True),
        Column(title="LEFT", fixed=True, right=True),
        Column(title="LEASES", fixed=True, right=True),
    )
    table(
        columns,
        (
            (
                where(row),
                str(row.attempt),
                row.agent,
                ago(row.opened_at, at),
                ago(row.last_heartbeat, at),
                left(row.deadline, at) if row.open else row.end_reason,
                str(row.live_leases),
            )
            for row in found
        ),
    )


@steps.command("end")
def end_steps(
    *,
    agent: o.Agent = "",
    workflow: o.Workflow = "",
    run: o.Run = "",
    step: o.StepName = "",
    everything: o.Everything = False,
    reason: o.Reason = "",
    dry_run: o.DryRun = False,
    yes: o.Yes = False,
    as_json_: o.Json = False,
) -> int:
    """End open steps and revoke all that they have: `leases revoke --end-steps`. Exit code 1: nothing fits."""
    asked = o.must_select(agent=agent, workflow=workflow, run=run, step=step, everything=everything)
    return _revoke(asked, end_steps=True, reason=reason, dry_run=dry_run, yes=yes, json_too=as_json_)


def _revoke(asked: Any, *, end_steps: bool, reason: str, dry_run: bool, yes: bool, json_too: bool) -> int:
    """1. what would die; 2. the typed word; 3. it dies."""
    from stepcred.v1 import operator_pb2 as pb

    o.must_say_why(reason, dry_run=dry_run)
    o.must_be_plain(json_too=json_too, yes=yes, dry_run=dry_run)
    with Office() as office:
        would = office.ask("RevokeLeases", pb.RevokeLeasesRequest(selection=asked, dry_run=True, end_steps=end_steps))
        if not json_too:
            _show(would)
        nothing = not would.lease_count and not would.step_count
        if nothing or dry_run:
            if json_too:
                as_json({**plain(would), "done": False})
            return _exits.FOUND_SOMETHING if nothing else 0
        word = "" if yes else _word(office, asked, would)
        if not typed(word, "They die at once, and the steps that use them fail.", yes=yes):
            return _exits.FOUND_SOMETHING
        request = pb.RevokeLeasesRequest(selection=asked, reason=reason, end_steps=end_steps)
        done = office.ask("RevokeLeases", request)
    if json_too:
        as_json({**plain(done), "done": True})
    else:
        say(f"asked to die: {many(done.lease_count, 'lease')}; ended: {many(done.step_count, 'step')}")
        say("how they end: stepcred admin leases list --watch 2")
    return 0


def _word(office: Office, asked: Any, would: Any) -> str:
    """How many, or of everything where: the wrong window is the commonest mistake."""
    from stepcred.v1 import operator_pb2 as pb

    if asked.everything:
        return str(office.ask("GetOperator", pb.GetOperatorRequest()).environment)
    return str(would.lease_count or would.step_count)


def _show(would: Any) -> None:
    if would.lease_count:
        print_leases(would.leases)
    if would.step_count:
        say()
        print_steps(would.steps)
    say()
    say(f"{many(would.lease_count, 'lease')} would die, {many(would.step_count, 'step')} would end{_more(would)}")


def _more(would: Any) -> str:
    hidden = would.lease_count - len(would.leases) + would.step_count - len(would.steps)
    return f" ({hidden} of them are not shown)" if hidden else ""
