"""What users may write, made into what is sent."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Sequence
from datetime import timedelta

from stepcred import _models as models
from stepcred import _wire
from stepcred._credentials import Credential
from stepcred._settings import StepName, seconds_of
from stepcred.v1 import broker_pb2


def checked_timeout(timeout: float) -> float:
    """Every call has a deadline: no None, no infinity."""
    if not (isinstance(timeout, (int, float)) and math.isfinite(timeout) and timeout > 0):
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")
    return float(timeout)


def checked_patience(approval_timeout: timedelta | float | None) -> float:
    """Seconds to wait for an approval; 0 = not at all. Not for ever: an operator may never come."""
    return 0.0 if approval_timeout is None else seconds_of("approval_timeout", approval_timeout)


def checked_retry(retry: int) -> int:
    """Each is a charged attempt."""
    if not isinstance(retry, int) or isinstance(retry, bool) or retry < 0:
        raise ValueError(f"retry must be a whole number from 0 on, not {retry!r}")
    return retry


def lease_id_of(lease: Credential | models.Lease | str | None) -> str:
    """Users may name a lease by its credential, by itself, or by its id."""
    if isinstance(lease, Credential):
        lease = lease.lease
    return lease.lease_id if isinstance(lease, models.Lease) else lease or ""


def note_failed_end(error: BaseException, problem: BaseException) -> None:
    """The body's own exception stays the one that is raised; what failed at the end is added to it."""
    error.add_note(f"the step could not be ended, the broker will end it: {problem}")
    for note in getattr(problem, "__notes__", []):
        error.add_note(note)


def new_request_id() -> str:
    return str(uuid.uuid4())


def step_name(name: StepName) -> broker_pb2.StepName:
    return broker_pb2.StepName(workflow=name.workflow, run=name.run, step=name.step)


def begin_request(name: StepName, scopes: Sequence[str], max_duration: timedelta | None) -> broker_pb2.BeginStepRequest:
    return broker_pb2.BeginStepRequest(
        request_id=new_request_id(),
        name=step_name(name),
        scopes=scopes,
        max_duration=_wire.duration(max_duration) if max_duration is not None else None,
    )


def as_span(value: timedelta | float | None) -> timedelta | None:
    return timedelta(seconds=value) if isinstance(value, (int, float)) else value


def scope_names(scopes: Iterable[str]) -> list[str]:
    if isinstance(scopes, str):
        raise TypeError("scopes must be a list of names, not one string")
    names = list(scopes)
    if strange := [name for name in names if not isinstance(name, str)]:
        raise TypeError(f"scopes must be a list of names, and {strange[0]!r:.60} is none")
    return names


def in_seconds(span: timedelta | None, default: float) -> float:
    return span.total_seconds() if span is not None and span > timedelta() else default
