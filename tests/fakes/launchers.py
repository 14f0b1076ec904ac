"""Entries for a scope map's `launchers:`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

SCHEDULER = "spiffe://dev.local/scheduler"
DIGEST = "sha256:" + "ab" * 32


def launcher(
    name: str = "scheduler", spiffe_id: str = SCHEDULER, workloads: Sequence[str] = ("load",), **changes: Any
) -> str:
    """One that may open steps of every workflow and definition, at all times, unless `changes` say otherwise."""
    entry = {"id": spiffe_id, "workloads": list(workloads), "workflows": ["*"], **changes}
    return f"  {name}: {json.dumps(entry)}\n"


def with_launchers(text: str, *launchers: str) -> str:
    """A map, and these at its end."""
    return text + ("launchers:\n" + "".join(launchers) if launchers else "")
