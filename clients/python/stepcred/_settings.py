"""Where the broker is and who we are, from arguments and STEPCRED_* variables. Every problem at once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from stepcred import _schedulers
from stepcred._errors import SettingsError
from stepcred._source import Files, Source
from stepcred._workload_api import SOCKET, WorkloadApi, WorkloadApiSource

HANDLE = "STEPCRED_STEP_HANDLE"  # of a step that a launcher has opened
WAIT = "STEPCRED_WAIT_BROKER"
LONGEST = 315_576_000_000.0  # seconds (google.protobuf.Duration)
_SPAN = re.compile(r"([0-9]{1,4})([sm])")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Read and checked."""

    addr: str
    source: Source


@dataclass(frozen=True, kw_only=True, slots=True)
class StepName:
    """The workflow's own names for what is running."""

    workflow: str
    run: str
    step: str


def read(
    *,
    addr: str | None,
    cert: str | None,
    key: str | None,
    ca: str | None,
    workload_api: WorkloadApi | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Arguments before variables, files before the Workload API.

    Raises SettingsError naming everything that is missing or unusable.
    """
    given = {"addr": addr, "cert": cert, "key": key, "ca": ca}
    arguments = {name: str(value or "") for name, value in given.items()}
    variables = {name: environ.get(f"STEPCRED_{name.upper()}", "") for name in given}
    problems = []
    addr = arguments.pop("addr") or variables.pop("addr")
    if not addr:
        problems.append("STEPCRED_ADDR is not set: the broker's address, host:port")
    elif not _ADDRESS.fullmatch(addr):
        problems.append(f"STEPCRED_ADDR must be host:port, not {addr!r}")
    try:
        source = _source(arguments, variables, workload_api, environ)
    except SettingsError as error:
        problems += error.problems
    if problems:
        raise SettingsError(problems)
    return Settings(addr=addr, source=source)


def _source(
    arguments: Mapping[str, str],
    variables: Mapping[str, str],
    workload_api: WorkloadApi | None,
    environ: Mapping[str, str],
) -> Source:
    """Raises SettingsError."""
    if workload_api is not None and any(arguments.values()):
        raise SettingsError(["give cert, key and ca, or workload_api, not both"])
    paths = {name: value or variables[name] for name, value in arguments.items()}
    if workload_api is not None or (environ.get(SOCKET) and not any(paths.values())):
        return WorkloadApiSource(workload_api or WorkloadApi(), environ)
    try:
        return Files(paths)
    except SettingsError as error:
        if environ.get(SOCKET) and not all(paths.values()):
            hint = f"{SOCKET} is used only when none of STEPCRED_CERT, STEPCRED_KEY and STEPCRED_CA is set"
            raise SettingsError([*error.problems, hint]) from None
        raise


def step_name(
    *, workflow: str | None, run: str | None, step: str | None, environ: Mapping[str, str] = os.environ
) -> StepName:
    """Arguments before STEPCRED_WORKFLOW, STEPCRED_RUN, STEPCRED_STEP before a scheduler's own variables.

    Raises SettingsError naming everything that is missing.
    """
    given = {"workflow": workflow, "run": run, "step": step}
    if strange := [f"{name} must be a string, not {one!r:.60}" for name, one in given.items() if not _is_text(one)]:
        raise SettingsError(strange)
    found = {name: value or environ.get(f"STEPCRED_{name.upper()}", "") for name, value in given.items()}
    missing = [name for name, value in found.items() if not value]
    if missing:
        known, problems = _schedulers.find(missing, environ)
        if problems:
            raise SettingsError(problems)
        found |= known
    return StepName(**found)


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def seconds_of(name: str, span: timedelta | float) -> float:
    """From 0 on, and no longer than can be sent; an argument of this name. Raises ValueError."""
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if not (isinstance(seconds, (int, float)) and 0 <= seconds <= LONGEST):  # nan is not
        raise ValueError(f"{name} must be seconds or a timedelta, not {span!r}")
    return float(seconds)


def wait_broker(given: timedelta | float | None, *, environ: Mapping[str, str] = os.environ) -> float:
    """Seconds: the argument before STEPCRED_WAIT_BROKER; 0 without."""
    if given is not None:
        return seconds_of("wait_broker", given)
    text = environ.get(WAIT, "")
    written = _SPAN.fullmatch(text)
    if text and written is None:
        raise SettingsError([f"{WAIT} must be a time as 30s or 2m, not {text[:60]!r}"])
    return float(written[1]) * (60 if written[2] == "m" else 1) if written else 0.0


def step_handle(handle: str | None, *, environ: Mapping[str, str] = os.environ) -> str:
    """The argument before STEPCRED_STEP_HANDLE."""
    found = handle or environ.get(HANDLE, "")
    if not found:
        raise SettingsError([f"no handle is given: pass handle= or set {HANDLE}"])
    return found
