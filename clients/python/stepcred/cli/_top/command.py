"""`stepcred admin top`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from stepcred._settings import Settings
from stepcred.cli import _exec, _exits

Once = Annotated[bool, typer.Option("--once", help="Print one picture and end; needs no terminal.")]
Json = Annotated[bool, typer.Option("--json", help="For programs: one picture.")]
Interval = Annotated[
    float, typer.Option(min=0.5, max=3600, metavar="SECONDS", help="Between two questions to the broker.")
]


def top(*, interval: Interval = 2.0, once: Once = False, as_json: Json = False) -> int:
    """Watch steps, leases, revocations, guard keys, approvals and providers, live. Changes nothing; ? shows the keys."""
    from stepcred import _admin

    live = not (once or as_json)
    if live and not _terminal():
        _exec.say("admin top needs a terminal; for one picture of it: stepcred admin top --once")
        return _exits.USAGE
    if live and not _quiet_textual():
        _exec.say("admin top needs an extra: pip install 'stepcred[admin]'; without it: stepcred admin top --once")
        return _exits.UNAVAILABLE
    settings = _admin.settings()
    if not live:
        return _picture(settings, as_json=as_json)
    from stepcred.cli._top import live as view

    return view.run(settings, interval)


def _terminal() -> bool:
    """All three: textual reads the first and draws on the last."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    return all(stream is not None and stream.isatty() for stream in streams) and os.environ.get("TERM") != "dumb"


def _quiet_textual() -> bool:
    """Whether it is there.

    It reads its settings when it is imported: nothing moves, and no keyboard protocol is negotiated, which a console or
    a multiplexer might print.
    """
    os.environ["TEXTUAL_ANIMATIONS"] = "none"
    os.environ["TEXTUAL_DISABLE_KITTY_KEY"] = "1"
    try:
        import textual  # noqa: F401
    except ModuleNotFoundError as missing:
        if missing.name != "textual":
            raise
        return False
    return True


def _picture(settings: Settings, *, as_json: bool) -> int:
    """Raises StepcredError."""
    from stepcred.cli._top import snapshot
    from stepcred.cli._top.poller import Poller

    poller = Poller(settings)
    try:
        found = poller.poll()
    finally:
        poller.close()
    if as_json:
        print(snapshot.as_json(found))  # noqa: T201
    else:
        snapshot.show(found)
    return 0
