"""`admin explain`, `timeline` and `journal`."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from stepcred._admin import Office, ask
from stepcred._errors import BrokerUnavailable
from stepcred.cli import _exec, _exits
from stepcred.cli._admin import _options as o
from stepcred.cli._admin._output import Column, as_json, is_terminal, plain, safe, say, table
from stepcred.cli._admin._timeline import Told, parse, rows

AGAIN = 1.0  # seconds until a stream that was cut is asked for again
_BROKEN = 120  # such cuts in a row: a restart of the broker takes seconds, a new version of it a minute
_WHERE = "CHAIN/SEQ"
_POSITION = re.compile(r"([0-9]{1,18})/([0-9]{1,18})", re.ASCII)


def explain(
    reference: Annotated[
        str, typer.Argument(metavar="REF", help="What a refused agent was told; or a lease or approval.")
    ],
    *,
    as_json_: o.Json = False,
) -> int:
    """Tell the whole story of a refusal, a lease or an approval. Exit code 1: there is none of this name."""
    from stepcred.v1 import operator_pb2 as pb

    told = ask("Explain", pb.ExplainRequest(reference=reference))
    if as_json_:
        as_json({"lines": list(told.lines), "records": plain(list(told.records))})
        return 0
    for line in told.lines:
        say(line if line.isprintable() else safe(line))
    return 0


def timeline(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    *,
    workflow: o.Workflow = "",
    full: Annotated[
        bool, typer.Option("--full", help="Every record; else a lease has a line when it begins and ends.")
    ] = False,
    as_json_: o.Json = False,
) -> int:
    """Tell one run's story. Exit code 1: the journal knows of no such run."""
    from stepcred.v1 import operator_pb2 as pb

    told = ask("GetTimeline", pb.GetTimelineRequest(run=run, workflow=workflow))
    found = [parse(entry) for entry in told.entries]
    if as_json_:
        as_json({"entries": [one.raw for one in found], "more": told.more})
    elif found:
        _show(found, more=told.more, full=full)
    if not found and not as_json_:
        _exec.say(f"the journal knows of no run {safe(run)}")
    return 0 if found else _exits.FOUND_SOMETHING


def _show(found: list[Told], *, more: bool, full: bool) -> None:
    workflows = sorted({one.text("workflow") for one in found} - {""})
    say(
        f"run {safe(found[0].text('run') or '')} of {safe(', '.join(workflows))}, from {found[0].at:%Y-%m-%d %H:%M:%S} UTC"
    )
    columns = (
        Column(title="TIME", fixed=True, right=True),
        Column(title="STEP"),
        Column(title="WHAT", fixed=True),
        Column(title="SCOPE"),
        Column(title="WHY"),
    )
    table(
        columns, ((row.time, row.step, row.what, row.scope, row.why) for row in rows(found, full=full)), styles=STYLES
    )
    if more:
        say("… and more: the journal has over 2,000 records of it")


STYLES = {
    "refused": "yellow",
    "LOCKED": "bold red",
    "HELD": "bold red",
    "in doubt": "bold red",
    "ALERT": "red",
    "minted": "green",
}


def journal(
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as records are added, until ^C.")] = False,
    back: Annotated[
        int, typer.Option("--lines", "-n", min=0, max=2000, metavar="N", help="So many of the newest.")
    ] = 20,
    kind: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Only these; may be given several times.")
    ] = None,
    after: Annotated[str, typer.Option(metavar=_WHERE, help="Instead: all after this one, 0/0 for all.")] = "",
    as_json_: o.Json = False,
) -> int:
    """Show the journal's newest records. With --json one object a line, as they are kept."""
    from stepcred.v1 import operator_pb2 as pb

    asked = pb.TailJournalRequest(follow=follow, back=back, kinds=kind or [])
    if after:
        asked.after_chain, asked.after_seq = _position(after)
    with Office() as office:
        try:
            for entry in _records(office, asked):
                if as_json_:
                    as_json(parse(entry).raw, compact=True)
                else:
                    _line(parse(entry))
                sys.stdout.flush()
        except KeyboardInterrupt:
            return 0
    return 0


def _records(office: Office, asked: Any) -> Iterator[Any]:
    """Each once, also when the connection is cut: brokers end old ones, and are restarted."""
    cuts = 0
    while True:
        try:
            for part in office.stream("TailJournal", asked):
                for entry in part.entries:
                    asked.after_chain, asked.after_seq, cuts = entry.chain, entry.seq, 0
                    yield entry
            if not asked.follow:
                return
        except BrokerUnavailable:
            cuts += 1
            if not asked.follow or cuts > _BROKEN:
                raise
        time.sleep(AGAIN)


def _position(text: str) -> tuple[int, int]:
    """0/0, which would be none, is before all."""
    found = _POSITION.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{_WHERE}, such as 3/141", param_hint="--after")
    chain, seq = map(int, found.groups())
    return (chain, seq) if chain or seq else (0, 1)


def _line(one: Told) -> None:
    words = [f"{one.chain}/{one.seq}", f"{one.at:%Y-%m-%d %H:%M:%S}", one.text("kind")]
    names = [one.text(name) for name in ("workflow", "run", "step") if one.text(name)]
    words += ["/".join(names)] if names else []
    words += [one.text(name) for name in ("scope", "lease_id", "reason", "reference_id") if one.text(name)]
    by = one.data.get("by") or one.data.get("operator")
    words += [f"by {by}"] if by else []
    text = safe("  ".join(words))
    if is_terminal():
        from rich.console import Console
        from rich.text import Text

        Console(markup=False, highlight=False, soft_wrap=True).print(Text(text, style=_colour(one)))
        return
    say(text)


def _colour(one: Told) -> str:
    kind = one.text("kind")
    if kind in ("ALERT", "GUARD_LOCKED", "GUARD_HELD", "BREAK_GLASS", "LEASE_IN_DOUBT"):
        return "bold red"
    return "yellow" if kind in ("DENIED", "OPERATOR_DENIED", "DENIALS_COUNTED") else ""
