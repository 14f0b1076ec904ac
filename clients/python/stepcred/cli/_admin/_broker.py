"""What operators ask of the broker itself: health, scope map, alerts, its front door, and who they are to it."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from stepcred._admin import Office, ask
from stepcred.cli import _exits
from stepcred.cli._admin import _options as o
from stepcred.cli._admin._output import (
    Column,
    ago,
    as_json,
    date,
    grid,
    is_terminal,
    many,
    moment,
    now,
    plain,
    safe,
    say,
    table,
    watch,
)

_SEVERITIES = {"critical": "bold red", "warning": "yellow", "OPEN": "bold red"}


def whoami(*, as_json_: o.Json = False) -> int:
    """Show what the broker makes of this operator's certificate, and what the operators file says of it."""
    from stepcred.v1 import operator_pb2 as pb

    told = ask("GetOperator", pb.GetOperatorRequest())
    if as_json_:
        as_json(told)
        return 0
    grid(
        [
            ("identity", told.spiffe_id),
            ("operator", told.name or "not in the operators file"),
            ("roles", ", ".join(told.roles) or "none"),
            ("groups", ", ".join(told.groups)),
            ("second factor", "yes" if told.second_factor else "no"),
            ("environment", told.environment),
            ("certificate not after", date(told.certificate_not_after)),
            ("certificate sha256", told.certificate_sha256),
            ("server time", date(told.server_time)),
        ]
    )
    return 0


def front_door(*, as_json_: o.Json = False) -> int:
    """Show what decides who comes in: bundles, revocation lists, certificates. Exit code 1: something needs a look."""
    from stepcred.v1 import operator_pb2 as pb

    told = ask("GetFrontDoor", pb.GetFrontDoorRequest())
    code = _exits.FOUND_SOMETHING if told.remarks else 0
    if as_json_:
        as_json(told)
        return code
    columns = (
        Column(title="WHOSE", fixed=True),
        Column(title="TRUST DOMAIN"),
        Column(title="WHAT"),
        Column(title="NAME"),
        Column(title="UNTIL", fixed=True),
    )
    table(columns, [*_doors(told), ("broker", "", "certificate", "", date(told.server_certificate_not_after))])
    say(f"\n{told.denied} on the deny list, generation {told.generation}")
    for remark in told.remarks:
        say(f"! {safe(remark)}")
    return code


def _doors(told: Any) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for whose, domains in (("agents", told.agents), ("operators", told.operators)):
        for domain in domains:
            found += [(whose, domain.name, "root", root.subject, date(root.not_after)) for root in domain.roots]
            for one in domain.revocation_lists:
                what = f"list {one.number}, {one.entries} revoked"
                found.append((whose, domain.name, what, one.issuer, date(one.next_update)))
    return found


def health(*, every: o.Watch = None, as_json_: o.Json = False) -> int:
    """Show whether the broker can do its work, and what is under way. Exit code 1: something is in the way."""
    from stepcred.v1 import operator_pb2 as pb

    with Office() as office:

        def show() -> int:
            told = office.ask("GetHealth", pb.GetHealthRequest())
            if as_json_:
                as_json(told, compact=every is not None)
            else:
                _health(told)
            bad = told.problems or told.overdue or any(one.breaker_open for one in told.providers)
            return _exits.FOUND_SOMETHING if bad else 0

        return watch(every, show)


def _health(told: Any) -> None:
    at = moment(told.server_time) or now()
    oldest = f", the oldest for {ago(told.oldest_revoking, at)}" if moment(told.oldest_revoking) else ""
    grid(
        [
            ("environment", f"{told.environment}, epoch {told.epoch}" + (", stopping" if told.draining else "")),
            ("server time", date(told.server_time)),
            ("steps", f"{told.open_steps} open; {many(told.intents, 'lease')} being minted"),
            ("revocations", f"{told.overdue} overdue{oldest}"),
            ("people", f"{many(told.approvals_waiting, 'approval')} to decide, {many(told.freezes, 'freeze')}"),
            ("guard", f"{many(told.keys_locked, 'key')} locked, {told.keys_held} held"),
            ("alerts", f"{told.alerts_firing} firing"),
        ]
    )
    say()
    columns = (
        Column(title="PROVIDER", fixed=True),
        Column(title="BREAKER", fixed=True),
        Column(title="ACTIVE", fixed=True, right=True),
        Column(title="REVOKING", fixed=True, right=True),
        Column(title="IN DOUBT", fixed=True, right=True),
        Column(title="IN THE WAY", words=True),
    )
    rows = (
        (
            one.name,
            "OPEN" if one.breaker_open else "closed",
            str(one.active),
            str(one.revoking),
            str(one.in_doubt),
            "; ".join(one.problems),
        )
        for one in told.providers
    )
    table(columns, rows, styles=_SEVERITIES)
    for problem in told.problems:
        say(f"! {safe(problem)}")


def scopes(*, as_json_: o.Json = False) -> int:
    """Show the scope map in force, and who signed it. Exit code 1: the files on disk are refused."""
    from stepcred.v1 import operator_pb2 as pb

    told = ask("GetScopeMap", pb.GetScopeMapRequest())
    code = _exits.FOUND_SOMETHING if told.problems or told.teams_refused else 0
    if as_json_:
        as_json(told)
        return code
    signed = [f"{key} ({owner or 'nobody'})" for key, owner in zip(told.signers, told.signed_by, strict=True)]
    grid(
        [
            ("file", told.file),
            ("digest", told.digest),
            ("in force", f"since {date(told.loaded_at)}, generation {told.generation}"),
            ("signed", f"serial {told.serial}, by {', '.join(signed)}" if signed else "no"),
            ("holds", f"{told.workloads} workloads, {told.scopes} scopes, {told.grants} grants"),
            ("approvals", f"off: {told.approvals_off}" if told.approvals_off else "on"),
        ]
    )
    for team in told.teams_refused:
        say(f"! the file of team {safe(team)} is refused; its last good one stays")
    for problem in told.problems:
        say(f"! {safe(problem)}")
    return code


def alerts(
    *,
    resolved: Annotated[bool, typer.Option("--resolved", help="The 200 that were resolved last, too.")] = False,
    every: o.Watch = None,
    as_json_: o.Json = False,
) -> int:
    """Show what fires, the newest first. Exit code 1: something does."""
    from stepcred.v1 import operator_pb2 as pb

    with Office() as office:

        def show() -> int:
            told = office.ask("ListAlerts", pb.ListAlertsRequest(resolved_too=resolved))
            if as_json_:
                as_json(told, compact=every is not None)
            else:
                _alerts(told.alerts)
            return _exits.FOUND_SOMETHING if any(not moment(row.resolved_at) for row in told.alerts) else 0

        return watch(every, show)


def _alerts(found: Any) -> None:
    at = now()
    columns = (
        Column(title="SEVERITY", fixed=True),
        Column(title="RULE", fixed=True),
        Column(title="FOR", fixed=True, right=True),
        Column(title="TIMES", fixed=True, right=True),
        Column(title="WHAT", words=True),
        Column(title="WAITS FOR"),
    )
    rows = (
        (
            "resolved" if moment(row.resolved_at) else row.severity,
            row.rule,
            ago(row.since, moment(row.resolved_at) or at),
            str(row.count),
            _about(row),
            ", ".join(row.waiting_for),
        )
        for row in found
    )
    table(columns, rows, styles=_SEVERITIES)


def _about(row: Any) -> str:
    labels = " ".join(f"{name}={value}" for name, value in sorted(row.labels.items()))
    return f"{row.summary} {labels}".strip()


def second_factor(
    *,
    show: Annotated[bool, typer.Option("--show", help="Also where it does not go to a terminal.")] = False,
    as_json_: o.Json = False,
) -> int:
    """Make a new second factor for yourself: a secret for your authenticator app, and the same sealed for the broker.

    Nothing changes until the sealed one is put into the operators file.
    """
    from stepcred.v1 import operator_pb2 as pb

    if not (show or is_terminal()):
        raise typer.BadParameter("the secret would go into a file or a pipe", param_hint="--show")
    with Office() as office:
        name = office.ask("GetOperator", pb.GetOperatorRequest()).name
        made = office.ask("SealSecondFactor", pb.SealSecondFactorRequest())
    if as_json_:
        as_json({"operator": name, **plain(made)})
        return 0
    say("For your authenticator app, and for nobody else:")
    _picture(made.uri)
    say(safe_uri(made.uri))
    say("\nFor the operators file:")
    say(f"  {safe(name)}:")
    say(f'    second_factor: {{revision: {made.revision}, sealed: "{safe(made.sealed)}"}}')
    return 0


def safe_uri(uri: str) -> str:
    """Whole, whatever its length."""
    return uri if uri.isprintable() else ascii(uri)


def _picture(uri: str) -> None:
    """To be scanned, where the extra for it is there."""
    try:
        import segno
    except ModuleNotFoundError:
        say("(a picture of it to scan needs an extra: pip install 'stepcred[admin]')")
        return
    if is_terminal():
        segno.make(uri, micro=False).terminal(out=sys.stdout, compact=True)
