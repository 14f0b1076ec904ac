"""`admin approvals` and `admin reviews`: what people have to say yes to, and what they have to look at afterwards."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from stepcred._admin import Office
from stepcred.cli import _exec, _exits
from stepcred.cli._admin import _options as o
from stepcred.cli._admin._consent import code
from stepcred.cli._admin._listing import listing
from stepcred.cli._admin._output import Column, as_json, date, grid, left, now, plain, safe, say, span, table, watch

approvals = typer.Typer(no_args_is_help=True, help="Approvals: what waits for somebody to say yes.")
reviews = typer.Typer(no_args_is_help=True, help="Reviews: what was done alone, and is to be signed by another.")

Approval = Annotated[str, typer.Argument(metavar="APPROVAL", help="Its id.")]

_STYLES = {"PENDING": "yellow", "APPROVED": "green", "DENIED": "red", "high": "bold"}


@approvals.command("list")
def list_approvals(
    *,
    agent: o.Agent = "",
    workflow: o.Workflow = "",
    run: o.Run = "",
    step: o.StepName = "",
    scope: o.Scope = "",
    decided: Annotated[bool, typer.Option("--decided", help="Those that wait for nobody, too.")] = False,
    limit: o.Limit = o.MANY,
    every: o.Watch = None,
    as_json_: o.Json = False,
) -> int:
    """Show what waits, the newest first; YOU says whether you may decide it."""
    asked = o.selection(agent=agent, workflow=workflow, run=run, step=step, scope=scope)
    return listing(
        "ListApprovals",
        "approvals",
        _table,
        limit=limit,
        every=every,
        json_too=as_json_,
        selection=asked,
        decided_too=decided,
    )


def _table(found: Any) -> None:
    at = now()
    columns = (
        Column(title="APPROVAL", fixed=True),
        Column(title="STATE", fixed=True),
        Column(title="SCOPE"),
        Column(title="WORKFLOW/RUN/STEP"),
        Column(title="YES", fixed=True),
        Column(title="LEFT", fixed=True, right=True),
        Column(title="YOU", words=True),
    )
    rows = (
        (
            row.approval_id,
            row.state,
            row.scope,
            f"{row.workflow}/{row.run}/{row.step}",
            f"{_given(row)}/{row.needed}",
            left(row.expires_at, at) if row.state in ("PENDING", "APPROVED") else "",
            row.you_may_not or "may",
        )
        for row in found
    )
    table(columns, rows, styles=_STYLES)


def _given(row: Any) -> int:
    return sum(vote.approve for vote in row.votes)


@approvals.command("show")
def show_approval(approval: Approval, *, as_json_: o.Json = False) -> int:
    """Show one: who asks for what, by which rule, and what was said. Exit code 1: there is none of this id."""
    with Office() as office:
        found = _of(office, approval)
    if found is None:
        return _exits.FOUND_SOMETHING
    if as_json_:
        as_json(found)
    else:
        _details(found)
    return 0


@approvals.command("approve")
def approve(
    approval: Approval,
    *,
    reason: o.Reason = "",
    good_for: Annotated[
        int | None,
        typer.Option("--good-for", min=1, max=24 * 60, metavar="MINUTES", help="To be used in so many minutes."),
    ] = None,
    as_json_: o.Json = False,
) -> int:
    """Say yes to exactly what is shown. Asks for a code of your second factor."""
    return _decide(approval, yes=True, reason=reason, good_for=good_for, json_too=as_json_)


@approvals.command("deny")
def deny(approval: Approval, *, reason: o.Reason = "", as_json_: o.Json = False) -> int:
    """Say no. Asks for a code of your second factor."""
    return _decide(approval, yes=False, reason=reason, good_for=None, json_too=as_json_)


def _plainly(value: Any) -> str:
    """Without anything of Python's: it is what a second person signs."""
    if isinstance(value, dict):
        return ", ".join(f"{name}={_plainly(one)}" for name, one in sorted(value.items()))
    return ", ".join(map(_plainly, value)) if isinstance(value, list) else str(value)


def _decide(approval: str, *, yes: bool, reason: str, good_for: int | None, json_too: bool) -> int:
    """1. what it is about is shown; 2. the code; 3. the vote, on that very digest."""
    from stepcred.v1 import operator_pb2 as pb

    o.must_say_why(reason)
    with Office() as office:
        found = _of(office, approval)
        if found is None:
            return _exits.FOUND_SOMETHING
        if not json_too:
            _details(found)
            say()
        if found.you_may_not:
            _exec.say(f"you may not decide it: {safe(found.you_may_not)}")
            return _exits.DENIED
        request = pb.DecideApprovalRequest(
            approval_id=found.approval_id, approve=yes, reason=reason, code=code(), digest=found.digest
        )
        if good_for is not None:
            request.good_for.FromTimedelta(timedelta(minutes=good_for))
        done = office.ask("DecideApproval", request).approval
    if json_too:
        as_json(done)
    else:
        say(f"{safe(done.approval_id)} is {safe(done.state)}: {_given(done)} of {done.needed} said yes")
    return 0


def _of(office: Office, approval: str) -> Any:
    """None, and said, when there is none."""
    from stepcred.v1 import operator_pb2 as pb

    for row in office.ask("ListApprovals", pb.ListApprovalsRequest(approval_id=approval)).approvals:
        if row.approval_id == approval:
            return row
    _exec.say(f"there is no approval {safe(approval)}: stepcred admin approvals list --decided")
    return None


def _details(row: Any) -> None:
    grid(
        [
            ("approval", f"{row.approval_id}, {row.state}"),
            ("scope", f"{row.scope}, tier {row.tier}, for {span(row.ttl.ToTimedelta())}"),
            ("agent", row.agent),
            ("step", f"workflow {row.workflow}, run {row.run}, step {row.step}"),
            ("workload", f"{row.workload}, owned by {', '.join(row.owners) or 'nobody'}"),
            ("rule", row.rule),
            ("digest", row.digest),
            ("asked", f"{date(row.requested_at)}, to be decided or used until {date(row.expires_at)}"),
            ("votes", f"{_given(row)} of {row.needed} said yes"),
            *(
                ("", f"{'yes' if vote.approve else 'no'} by {vote.operator} at {date(vote.at)}: {vote.reason}")
                for vote in row.votes
            ),
            *([("used by", row.lease_id)] if row.lease_id else []),
        ]
    )


# --- reviews ---


@reviews.command("list")
def list_reviews(
    *,
    closed: Annotated[bool, typer.Option("--closed", help="Those that are signed, too.")] = False,
    every: o.Watch = None,
    as_json_: o.Json = False,
) -> int:
    """Show what is to be signed, the newest first. Exit code 1: something is."""
    from stepcred.v1 import operator_pb2 as pb

    with Office() as office:

        def show() -> int:
            answer = office.ask("ListReviews", pb.ListReviewsRequest(closed_too=closed))
            if as_json_:
                as_json(answer, compact=every is not None)
            else:
                _review_table(answer.reviews)
            waiting = any(not row.closed_by for row in answer.reviews)
            return _exits.FOUND_SOMETHING if waiting else 0

        return watch(every, show)


def _review_table(found: Any) -> None:
    columns = (
        Column(title="REVIEW", fixed=True),
        Column(title="WHAT", fixed=True),
        Column(title="BY"),
        Column(title="AT", fixed=True),
        Column(title="WHY", words=True),
        Column(title="SIGNED", words=True),
    )
    rows = (
        (
            row.review_id,
            row.kind,
            row.by,
            date(row.at),
            row.reason,
            f"{row.closed_by}: {row.note}" if row.closed_by else "",
        )
        for row in found
    )
    table(columns, rows)


@reviews.command("sign")
def sign(
    review: Annotated[str, typer.Argument(metavar="REVIEW", help="Its id.")],
    *,
    note: Annotated[str, typer.Option(metavar="TEXT", help="What you found; it goes into the journal.")] = "",
    as_json_: o.Json = False,
) -> int:
    """Close what another operator did alone. Nobody signs what he did himself."""
    from stepcred.v1 import operator_pb2 as pb

    if not note.strip():
        raise typer.BadParameter("say what you found", param_hint="--note")
    with Office() as office:
        found = office.ask("ListReviews", pb.ListReviewsRequest(closed_too=True)).reviews
        about = [row for row in found if row.review_id == review]
        if about and not as_json_:
            row = about[0]
            told = [(name, _plainly(value)) for name, value in sorted(plain(row.about).items())]
            grid([("what", row.kind), ("by", f"{row.by}, {date(row.at)}"), ("why", row.reason), *told])
            say()
        done = office.ask("SignReview", pb.SignReviewRequest(review_id=review, note=note)).review
    if as_json_:
        as_json(done)
    else:
        say(f"{safe(done.review_id)} is signed by {safe(done.closed_by)}")
    return 0
