"""`admin freeze`, `unfreeze` and `freezes`: nothing new is minted."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from stepcred._admin import Office
from stepcred.cli import _exits
from stepcred.cli._admin import _options as o
from stepcred.cli._admin._consent import typed
from stepcred.cli._admin._leases import print_leases
from stepcred.cli._admin._output import Column, as_json, date, plain, safe, say, table, watch

_NAMES = ("agent", "workflow", "run", "scope", "provider")


def freeze(
    *,
    agent: o.Agent = "",
    workflow: o.Workflow = "",
    run: o.Run = "",
    scope: o.Scope = "",
    provider: o.Provider = "",
    everything: o.Everything = False,
    revoke: Annotated[bool, typer.Option("--revoke", help="And revoke what is alive.")] = False,
    reason: o.Reason = "",
    dry_run: o.DryRun = False,
    yes: o.Yes = False,
    as_json_: o.Json = False,
) -> int:
    """Mint nothing more that fits every option that is given; what is being minted now is not delivered.

    First it shows what would be stopped, then somebody types how many leases that are, or with --all the
    environment's name. It stays until `stepcred admin unfreeze`.
    """
    from stepcred.v1 import operator_pb2 as pb

    asked = o.must_select(
        agent=agent, workflow=workflow, run=run, scope=scope, provider=provider, everything=everything
    )
    o.must_say_why(reason, dry_run=dry_run)
    o.must_be_plain(json_too=as_json_, yes=yes, dry_run=dry_run)
    with Office() as office:
        would = office.ask("Freeze", pb.FreezeRequest(selection=asked, reason=reason, dry_run=True, revoke=revoke))
        if not as_json_:
            _show_leases(would, revoke=revoke)
        if dry_run:
            if as_json_:
                as_json({**plain(would), "done": False})
            return 0
        word = "" if yes else _word(office, asked, would)
        if not typed(word, f"Nothing is minted any more for {_what(asked)}.", yes=yes):
            return _exits.FOUND_SOMETHING
        done = office.ask("Freeze", pb.FreezeRequest(selection=asked, reason=reason, revoke=revoke))
    if as_json_:
        as_json({**plain(done), "done": True})
    else:
        say(
            f"frozen: {_what(done.freeze.selection)}; to undo it: stepcred admin unfreeze {safe(done.freeze.freeze_id)}"
        )
    return 0


def _show_leases(would: Any, *, revoke: bool) -> None:
    if would.leases:
        print_leases(would.leases)
        say()
    hidden = would.lease_count - len(would.leases)
    more = f" ({hidden} of them are not shown)" if hidden else ""
    say(f"{would.lease_count} leases {'would die' if revoke else 'are being minted and would die'}{more}")


def _word(office: Office, asked: Any, would: Any) -> str:
    from stepcred.v1 import operator_pb2 as pb

    if asked.everything:
        return str(office.ask("GetOperator", pb.GetOperatorRequest()).environment)
    return str(would.lease_count)


def unfreeze(
    freeze_id: Annotated[str, typer.Argument(metavar="FREEZE", help="See `stepcred admin freezes`; all = of all.")],
    *,
    reason: o.Reason = "",
    dry_run: o.DryRun = False,
    yes: o.Yes = False,
    as_json_: o.Json = False,
) -> int:
    """Take a freeze back."""
    from stepcred.v1 import operator_pb2 as pb

    o.must_say_why(reason, dry_run=dry_run)
    o.must_be_plain(json_too=as_json_, yes=yes, dry_run=dry_run)
    with Office() as office:
        would = office.ask("Unfreeze", pb.UnfreezeRequest(freeze_id=freeze_id, reason=reason, dry_run=True))
        if not as_json_:
            _table([would.freeze])
            say()
        if dry_run:
            if as_json_:
                as_json({**plain(would), "done": False})
            return 0
        if not typed("unfreeze", "It may be minted again.", yes=yes):
            return _exits.FOUND_SOMETHING
        done = office.ask("Unfreeze", pb.UnfreezeRequest(freeze_id=freeze_id, reason=reason))
    if as_json_:
        as_json({**plain(done), "done": True})
    else:
        say(f"no longer frozen: {_what(done.freeze.selection)}")
    return 0


def freezes(*, every: o.Watch = None, as_json_: o.Json = False) -> int:
    """Show what is frozen, the oldest first."""
    from stepcred.v1 import operator_pb2 as pb

    with Office() as office:

        def show() -> int:
            answer = office.ask("ListFreezes", pb.ListFreezesRequest())
            if as_json_:
                as_json(answer, compact=every is not None)
            else:
                _table(answer.freezes)
            return 0

        return watch(every, show)


def _table(found: Any) -> None:
    columns = (
        Column(title="FREEZE", fixed=True),
        Column(title="WHAT"),
        Column(title="BY"),
        Column(title="SINCE", fixed=True),
        Column(title="WHY"),
    )
    table(columns, ((row.freeze_id, _what(row.selection), row.by, date(row.at), row.reason) for row in found))


def _what(selection: Any) -> str:
    """In words; safe."""
    named = [f"{name} {getattr(selection, name)}" for name in _NAMES if getattr(selection, name)]
    return safe(", ".join(named) or "everything")
