"""`stepcred-broker check`: everything that `serve` would stumble over, without serving.

A look is a function `Config -> Looked` and a line in the table `LOOKS`. It changes nothing, and asks nobody but this machine.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from typing import Annotated

import typer

from broker import log
from broker.cli.check import files, machine, state, tls
from broker.cli.check.looked import Looked
from broker.cli.options import ConfigFile, count
from broker.config import Config, load

Look = Callable[[Config], Looked]
LOOKS: dict[str, Look] = {
    "front door": tls.front_door,
    "mint key": state.mint_key,
    "anchor": state.anchor,
    "scope map": state.scope_map,
    "operators": state.operators,
    "secret files": files.secrets,
    "listeners": machine.listeners,
    "open files": machine.open_files,
    "disk": machine.disk,
}
_COLUMN = 14  # characters


def check(
    config: ConfigFile,
    *,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Also ask Vault and AWS whether the broker may mint, and what time it is, and look whether receivers of alerts can be reached.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Look for mistakes in config, certificates, keys, files, machine and scope map; print every one.

    Exit code 78 when something must be changed, 69 when --live finds that a provider is not ready. Notes change nothing.
    """
    log.configure("error", "console")
    settings = load(config, os.environ)
    report = _Report(as_json=as_json)
    report.add("config", Looked())
    for name, look in LOOKS.items():
        report.add(name, look(settings))
    code = os.EX_CONFIG if report.wrong else os.EX_OK
    if live and not report.wrong:
        _ask_providers(settings, report)
        code = os.EX_UNAVAILABLE if report.wrong else os.EX_OK
    elif not live:
        report.say(f"{'providers':<{_COLUMN}}not asked (--live asks them)")
    report.end(code)
    if code:
        raise typer.Exit(code)


def _ask_providers(settings: Config, report: _Report) -> None:
    from broker.wiring import alerting, offline

    found = asyncio.run(offline.check_live(settings))
    report.add("providers", Looked(errors=found, notes=found.remarks))
    report.add("receivers", Looked(notes=asyncio.run(alerting.check_receivers(settings))))
    if found.remedy:
        report.remedy = found.remedy
        text = "this prints what to install; for Vault, --diff prints how the server differs:"
        typer.echo(f"{text}\n  {found.remedy}", err=True)


class _Report:
    """Told as it is found: a look may take a while. As JSON it is one object, at the end."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._looks: list[dict[str, object]] = []
        self.wrong = 0
        self.remedy = ""

    def add(self, name: str, looked: Looked) -> None:
        """Errors go to standard error in any case."""
        self._looks.append({"look": name, "errors": [*looked.errors], "notes": [*looked.notes]})
        self.wrong += len(looked.errors)
        self.say(f"{name:<{_COLUMN}}{count(len(looked.errors), 'problem') if looked.errors else 'ok'}")
        for error in looked.errors:
            typer.echo(f"error: {error}", err=True)
        for note in looked.notes:
            self.say(f"{'':<{_COLUMN}}note: {note}")

    def say(self, line: str) -> None:
        """For people."""
        if not self._as_json:
            typer.echo(line)

    def end(self, code: int) -> None:
        """For programs."""
        if self._as_json:
            typer.echo(json.dumps({"exit_code": code, "looks": self._looks, "remedy": self.remedy}, indent=2))
