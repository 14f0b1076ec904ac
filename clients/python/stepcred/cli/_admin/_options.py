"""Options that several commands have, and what they select."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from stepcred._admin import Office

Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Watch = Annotated[
    float | None,
    typer.Option("--watch", min=0.5, max=3600.0, metavar="SECONDS", help="Again every so many seconds, until ^C."),
]
Agent = Annotated[str, typer.Option(help="Of this SPIFFE ID.", metavar="SPIFFE_ID")]
Workflow = Annotated[str, typer.Option(help="Of this workflow.", metavar="NAME")]
Run = Annotated[str, typer.Option(help="Of this run.", metavar="NAME")]
StepName = Annotated[str, typer.Option("--step", help="Of this step.", metavar="NAME")]
Scope = Annotated[str, typer.Option(help="Of this scope.", metavar="NAME")]
Provider = Annotated[str, typer.Option(help="Of this provider.", metavar="NAME")]
Everything = Annotated[bool, typer.Option("--all", help="All that there is; goes with no other.")]
Ended = Annotated[bool, typer.Option("--ended", help="Those that have ended, too.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="At most so many.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; it goes into the journal.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts.")]

MANY = 1000  # rows of a list, unless --limit says otherwise


def selection(**fields: Any) -> Any:
    """Of the contract."""
    from stepcred.v1 import operator_pb2 as pb

    return pb.Selection(**fields)


def must_select(**fields: Any) -> Any:
    """What is to be changed. Raises BadParameter when nothing is named, or everything and more."""
    named = {name: value for name, value in fields.items() if value and name != "everything"}
    if fields.get("everything") and named:
        raise typer.BadParameter("everything is everything: give no other", param_hint="--all")
    if not (named or fields.get("everything")):
        raise typer.BadParameter("say which: nothing is selected by saying nothing", param_hint="--agent … or --all")
    return selection(**fields)


def must_say_why(reason: str, *, dry_run: bool = False) -> str:
    """Raises BadParameter."""
    if not reason.strip() and not dry_run:
        raise typer.BadParameter("say why, for those who read the journal", param_hint="--reason")
    return reason


def must_be_plain(*, json_too: bool, yes: bool, dry_run: bool) -> None:
    """A program is asked nothing. Raises BadParameter."""
    if json_too and not (yes or dry_run):
        raise typer.BadParameter("a program cannot be asked: give --yes or --dry-run", param_hint="--json")


def rows(office: Office, method: str, field: str, *, limit: int = MANY, **asked: Any) -> Iterator[Any]:
    """A list, page by page."""
    from stepcred.v1 import operator_pb2 as pb

    token, told = "", 0
    while True:
        page = pb.Page(size=min(200, limit - told), token=token)
        answer = office.ask(method, getattr(pb, f"{method}Request")(page=page, **asked))
        found = getattr(answer, field)
        yield from found
        told, token = told + len(found), answer.next_token
        if not token or told >= limit:
            return
