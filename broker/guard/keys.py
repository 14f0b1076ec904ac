"""What a guard counter belongs to: canonical keys, so that another spelling buys no attempts.

The run is in the budget's key and in no other: a new run id gets a new budget, but no new hourly limit.
A capture named `run` is left out for the same reason. Certificate, connection and attempt are in neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from broker.keyring import encode
from broker.model import JsonValue

RUN = "run"  # the one capture that is no part of a key


def guard_key(*, workload: str, captures: Mapping[str, str], workflow: str, run: str, step: str, scope: str) -> str:
    """Key of the attempt budget, as 64 hex characters."""
    return _digest("budget", workload, _flat(captures), workflow, run, step, scope)


def hour_key(*, workload: str, captures: Mapping[str, str], scope: str) -> str:
    """Key of the rolling-hour limit, as 64 hex characters. Claimed names (workflow, run, step) are not in it."""
    return _digest("hour", workload, _flat(captures), scope)


def about(
    *,
    workload: str,
    captures: Mapping[str, str],
    workflow: str,
    run: str,
    step: str,
    scope: str,
    launcher: str = "",
    also: Sequence[str] = (),
) -> dict[str, JsonValue]:
    """What a budget's key stands for, for people.

    `launcher`: SPIFFE ID of whoever opened the step for its agent. `also`: further workloads that are counted by it,
    since the same certificate fits them.
    """
    return {
        "workload": workload,
        "captures": dict(_bound(captures)),
        "workflow": workflow,
        "run": run,
        "step": step,
        "scope": scope,
    } | {name: value for name, value in (("launcher", launcher), ("also", list(also))) if value}


def workloads(about_key: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """Whose key it is: all that its owners have a part in."""
    also = about_key.get("also")
    return str(about_key.get("workload", "")), *map(str, also if isinstance(also, list) else ())


def without_step(about_key: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Of the hourly limit that stands behind a budget's key."""
    return {name: value for name, value in about_key.items() if name not in ("workflow", "run", "step")}


def _bound(captures: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted((name, value) for name, value in captures.items() if name != RUN)


def _flat(captures: Mapping[str, str]) -> bytes:
    return encode(*(part for pair in _bound(captures) for part in pair))


def _digest(purpose: str, *parts: str | bytes) -> str:
    # Length prefixes: ("a", "bc") and ("ab", "c") must not share a budget, nor a step hide behind another's.
    return hashlib.sha256(encode("stepcred-guard", purpose, *parts)).hexdigest()
