"""Maps on disk for the commands that look at them, and how these are run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from broker.cli.scopes import app

LOAD = "spiffe://prod.acme.internal/workflow/etl/step/load"
CLEAN = "spiffe://prod.acme.internal/workflow/etl/step/clean"
HEAD = "version: 1\nenvironment: prod\ntrust_domain: prod.acme.internal\n"
WORKLOADS = """workloads:
  load: {id: "spiffe://prod.acme.internal/workflow/{workflow}/step/load", owners: [alice]}
"""
SCOPES = """scopes:
  orders: {vault: {role: orders}, tier: low}
  spare: {vault: {role: spare}, tier: low}
"""
GRANTS = """grants:
  read: {workloads: [load], workflows: [etl], scopes: [orders]}
"""
MAP = HEAD + WORKLOADS + SCOPES + GRANTS


def write(folder: Path, text: str = MAP, name: str = "map.yaml") -> Path:
    """A file in a folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def run(*arguments: object) -> Result:
    """`stepcred-broker scopes …`."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def parsed(result: Result) -> Any:
    """Its standard output as JSON."""
    return json.loads(result.stdout)
