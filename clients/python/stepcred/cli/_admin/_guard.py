"""`admin guard`: who has run out of attempts, and who is let go."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from stepcred._admin import Office
from stepcred.cli import _exec, _exits
from stepcred.cli._admin import _options as o
from stepcred.cli._admin._consent import code
from stepcred.cli._admin._listing import listing
from stepcred.cli._admin._output import Column, as_json, date, grid, left, now, safe, say, table

guard = typer.Typer(no_args_is_help=True, help="Guard keys: who has run out of attempts, and who is let go.")

_STYLES = {"HELD": "bold red", "LOCKED": "red", "COOLING": "yellow", "high": "bold"}
_SHORT = 12  # hex digits of a key that are shown, and enough to name it
_LEAST = 4  # characters of a key, to mean it


@guard.command("list")
def list_keys(
    *,
    workflow: o.Workflow = "",
    run: o.Run = "",
    step: o.StepName = "",
    scope: o.Scope = "",
    open_too: Annotated[bool, typer.Option("--open", help="Those that stand in nobody's way, too.")] = False,
    limit: o.Limit = o.MANY,
    every: o.Watch = None,
    as_json_: o.Json = False,
) -> int:
    """Show keys that are cooling, locked or held."""
    asked = o.selection(workflow=workflow, run=run, step=step, scope=scope)
    return listing(
        "ListGuardKeys",
        "keys",
        _table,
        limit=limit,
        every=every,
        json_too=as_json_,
        selection=asked,
        open_too=open_too,
    )


def _table(found: Any) -> None:
    at = now()
    columns = (
        Column(title="KEY", fixed=True),
        Column(title="STATE", fixed=True),
        Column(title="TIER", fixed=True),
        Column(title="SCOPE"),
        Column(title="WHOSE"),
        Column(title="USED", fixed=True, right=True),
        Column(title="ENDS", fixed=True, right=True),
    )
    rows = (
        (
            row.key[:_SHORT],
            row.state,
            row.tier,
            row.scope,
            whose(row),
            f"{row.spent}/{row.allowed}",
            "" if row.state in ("HELD", "OPEN") else left(row.until, at),
        )
        for row in found
    )
    table(columns, rows, styles=_STYLES)


def whose(row: Any) -> str:
    """A step's names, or the workload whose hour it is."""
    return f"{row.workload}, any hour" if row.hour else f"{row.workflow}/{row.run}/{row.step}"


@guard.command("reset")
def reset(
    key: Annotated[str, typer.Argument(metavar="KEY", help="As `guard list` shows it.")],
    *,
    reason: o.Reason = "",
    break_glass: Annotated[
        bool,
        typer.Option(
            "--break-glass",
            help="Nobody else is there: owners and whoever opened it last may. The loudest alert goes out, and another "
            "operator has to sign a review.",
        ),
    ] = False,
    as_json_: o.Json = False,
) -> int:
    """Let a key go, with all of its attempts. Asks for a code of your second factor."""
    from stepcred.v1 import operator_pb2 as pb

    o.must_say_why(reason)
    with Office() as office:
        found = _of(office, key)
        if found is None:
            return _exits.FOUND_SOMETHING
        if not as_json_:
            _details(found)
        request = pb.ResetGuardKeyRequest(key=found.key, reason=reason, code=code(), break_glass=break_glass)
        done = office.ask("ResetGuardKey", request)
    if as_json_:
        as_json(done)
        return 0
    say(f"open again: {safe(whose(done.key))}, {safe(done.key.scope)}")
    if done.review_id:
        say(f"a review is open: another operator signs it with stepcred admin reviews sign {safe(done.review_id)}")
    return 0


def _of(office: Office, key: str) -> Any:
    """The one that begins so; None, and said, when there are several or none."""
    if len(key) < _LEAST:
        _exec.say(f"{safe(key)}: give at least {_LEAST} characters of the key")
        return None
    for open_too in (False, True):  # the hour of a workload can be used up while nothing is closed
        stuck = o.rows(office, "ListGuardKeys", "keys", limit=100_000, open_too=open_too)
        found = [row for row in stuck if row.key.startswith(key)]
        if len(found) == 1:
            return found[0]
        if found:
            break
    _exec.say(
        f"{len(found) or 'no'} keys begin with {safe(key)}: stepcred admin guard list shows those in somebody's way"
    )
    return None


def _details(row: Any) -> None:
    captures = ", ".join(f"{name}={value}" for name, value in sorted(row.captures.items()))
    rows = [
        ("state", row.state),
        ("scope", f"{row.scope}, tier {row.tier}"),
        ("workload", row.workload + (f" ({captures})" if captures else "")),
        ("whose", whose(row)),
        ("used", f"{row.spent} of {row.allowed}" + (f", {row.admitted} asked for" if row.admitted else "")),
    ]
    if row.reset_by:
        rows.append(("last reset", f"by {row.reset_by}, {date(row.reset_at)}"))
    grid(rows)
    say()
