"""The client without I/O: what to send, what an answer means, when to try again.

Each operation is a generator, a *flow*: it yields `Call` (answer with the response, or throw `CallFailed` in) and
`Pause`, and returns its result. `_sync` and `aio` are two small drivers of the same flows.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypeVar

from stepcred import _models as models
from stepcred import _wire
from stepcred._credentials import Credential
from stepcred._errors import Refused, SettingsError, StepcredError, StepEnded
from stepcred._settings import StepName
from stepcred._status import CallFailed, error_of, may_retry, pushback
from stepcred.v1 import broker_pb2

T = TypeVar("T")
log = logging.getLogger("stepcred")

RETRIES = 3
FIRST_PAUSE = 0.2  # seconds, doubled each time, ± half: a restarting broker must not meet all its clients at once
BEAT_TIMEOUT = 5.0  # seconds; well below the broker's silence bound
BEAT_AGAIN = 2.0  # seconds until the next heartbeat after one that failed


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """Send `request` to `method` once, waiting at most `timeout` seconds."""

    method: str
    request: Any = field(repr=False)
    timeout: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


Flow: TypeAlias = Generator[Call | Pause, Any, T]


def checked_timeout(timeout: float) -> float:
    """Every call has a deadline: no None, no infinity."""
    if not (isinstance(timeout, (int, float)) and math.isfinite(timeout) and timeout > 0):
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")
    return float(timeout)


@dataclass(kw_only=True, slots=True)
class BrokerCore:
    """One broker's address and default deadline; the calls that belong to no step."""

    addr: str
    timeout: float
    monotonic: Callable[[], float] = time.monotonic
    uniform: Callable[[float, float], float] = random.uniform

    def call(self, method: str, request: Any, *, timeout: float | None = None, retries: int = RETRIES) -> Flow[Any]:
        """One request, the very same again after UNAVAILABLE; `timeout` bounds all attempts together."""
        deadline = self.monotonic() + checked_timeout(self.timeout if timeout is None else timeout)
        for attempt in itertools.count():
            try:
                return (yield Call(method=method, request=request, timeout=max(deadline - self.monotonic(), 0.001)))
            except CallFailed as failure:
                asked = pushback(failure)
                pause = asked if asked is not None else FIRST_PAUSE * 2**attempt * self.uniform(0.5, 1.5)
                if attempt >= retries or not may_retry(failure) or self.monotonic() + pause >= deadline:
                    raise error_of(failure, self.addr) from None
            yield Pause(pause)
        raise AssertionError  # count() does not end

    def whoami(self) -> Flow[models.Identity]:
        response = yield from self.call("WhoAmI", broker_pb2.WhoAmIRequest())
        return _wire.identity(response)

    def check(self, name: StepName, scopes: Iterable[str]) -> Flow[tuple[models.ScopeVerdict, ...]]:
        request = broker_pb2.CheckAccessRequest(name=_name(name), scopes=_list(scopes))
        response = yield from self.call("CheckAccess", request)
        return tuple(_wire.scope_verdict(verdict) for verdict in response.scopes)

    def step(
        self, name: StepName, scopes: Iterable[str], *, max_duration: timedelta | float | None, wait: float
    ) -> StepCore:
        return StepCore(
            broker=self, name=name, scopes=tuple(_list(scopes)), max_duration=_span(max_duration), wait=wait
        )

    def join(self, handle: str, *, wait: float) -> StepCore:
        return StepCore(broker=self, wait=wait, handle=handle)

    def launch(
        self,
        name: StepName,
        scopes: Iterable[str],
        *,
        on_behalf_of: str,
        definition_digest: str,
        max_duration: timedelta | float | None,
    ) -> Flow[models.Launched]:
        if not on_behalf_of:
            raise SettingsError(["on_behalf_of is not given: the SPIFFE ID of the workload"])
        request = _begin_request(name, _list(scopes), _span(max_duration))
        request.on_behalf_of, request.definition_digest = on_behalf_of, definition_digest
        return _wire.launched((yield from self.call("BeginStep", request)))

    def end(self, handle: str, *, wait: float) -> Flow[tuple[models.LeaseOutcome, ...]]:
        step = self.join(handle, wait=wait)
        yield from step.end()
        return step.outcomes


@dataclass(kw_only=True, slots=True)
class StepCore:
    """One step of ours: its handle, what it holds, and what became of it. `held` is touched by the heartbeat too."""

    broker: BrokerCore
    wait: float  # seconds to wait for evidence at the end
    name: StepName | None = None  # None: opened by a launcher, who knows
    scopes: tuple[str, ...] = ()
    max_duration: timedelta | None = None

    handle: str = field(default="", repr=False)  # given beforehand: of a step to join
    attempt: int = 0
    interval: float = 10.0
    deadline: datetime | None = None
    verdicts: tuple[models.ScopeVerdict, ...] = ()
    outcomes: tuple[models.LeaseOutcome, ...] = ()
    all_proven: bool = False
    alive: bool = False
    ended_by_broker: bool = False
    held: dict[str, models.Lease] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def begin(self) -> Flow[None]:
        """Open the step, or join it: then a first heartbeat says that we are there."""
        if self.name is None:
            response = yield from self.broker.call("Heartbeat", broker_pb2.HeartbeatRequest(step_handle=self.handle))
            self.interval = _seconds(_wire.span_of(response, "next_heartbeat"), self.interval)
            self.deadline = _wire.time_of(response, "deadline")
            self.alive = True
            return
        request = _begin_request(self.name, self.scopes, self.max_duration)
        response = yield from self.broker.call("BeginStep", request)
        self.handle, self.attempt = response.step_handle, response.attempt
        self.interval = _seconds(_wire.span_of(response, "heartbeat_interval"), self.interval)
        self.deadline = _wire.time_of(response, "deadline")
        self.verdicts = tuple(_wire.scope_verdict(verdict) for verdict in response.scopes)
        self.alive = True

    def issue(self, scope: str, *, timeout: float | None, replaces: str, public_key: str, csr: str) -> Flow[Credential]:
        request = broker_pb2.IssueCredentialRequest(
            request_id=_request_id(), step_handle=self.handle, scope=scope, replaces=replaces
        )
        if public_key:
            request.public_key = public_key
        elif csr:
            request.csr = csr
        response = yield from self._call("IssueCredential", request, timeout=timeout)
        credential = _wire.credential(response)
        with self.lock:
            self.held[credential.lease.lease_id] = credential.lease
        return credential

    def revoke(self, lease_id: str, *, wait: float) -> Flow[models.LeaseOutcome]:
        request = broker_pb2.RevokeLeaseRequest(
            request_id=_request_id(),
            step_handle=self.handle,
            lease_id=lease_id,
            wait=_wire.duration(timedelta(seconds=wait)),
        )
        response = yield from self._call("RevokeLease", request, timeout=self.broker.timeout + wait)
        self._drop([lease_id])
        return _wire.outcome(response.lease)

    def end(self) -> Flow[None]:
        """Ask for the end and wait for evidence. A step that the broker has ended already is no failure."""
        self.alive = False
        request = broker_pb2.EndStepRequest(
            request_id=_request_id(), step_handle=self.handle, wait=_wire.duration(timedelta(seconds=self.wait))
        )
        try:
            response = yield from self.broker.call("EndStep", request, timeout=self.broker.timeout + self.wait)
        except StepEnded:
            self.ended_by_broker = True
            return
        except StepcredError as error:
            with self.lock:
                left = models.left_behind(self.held.values())
            if left:
                error.add_note(left)
            raise
        self.outcomes = tuple(_wire.outcome(outcome) for outcome in response.leases)
        self.all_proven = response.all_proven

    def heartbeat(self) -> Flow[float]:
        """Say that we live and what we hold; seconds until the next one. A failure is never the step's own."""
        with self.lock:
            held = list(self.held)
        request = broker_pb2.HeartbeatRequest(step_handle=self.handle, held_lease_ids=held)
        try:
            response = yield from self._call("Heartbeat", request, timeout=BEAT_TIMEOUT, retries=0)
        except StepEnded:
            return self.interval
        except Refused as refused:
            log.warning("heartbeat refused: %s", refused)
            return max(self.interval, refused.retry_after or 0.0)
        except StepcredError as error:
            log.info("heartbeat failed, trying again: %s", error)
            return min(self.interval, BEAT_AGAIN)
        self._drop(response.ended_lease_ids)
        self.deadline = _wire.time_of(response, "deadline") or self.deadline
        return _seconds(_wire.span_of(response, "next_heartbeat"), self.interval)

    def summary(self) -> str:
        """One line for people about the end of the step."""
        if self.ended_by_broker and not self.outcomes:
            return "the broker had already ended this step"
        return models.summary(self.outcomes)

    def _call(self, method: str, request: Any, *, timeout: float | None = None, retries: int = RETRIES) -> Flow[Any]:
        """A call about the open step; learns from the answer when it is open no more."""
        if not self.alive:
            raise StepEnded("this step has ended", reason="STEP_ENDED")
        try:
            return (yield from self.broker.call(method, request, timeout=timeout, retries=retries))
        except StepEnded as ended:
            if self.alive:
                log.warning("the broker has ended this step: %s", ended)
            self.alive, self.ended_by_broker = False, True
            raise

    def _drop(self, lease_ids: Iterable[str]) -> None:
        with self.lock:
            for lease_id in lease_ids:
                self.held.pop(lease_id, None)


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


def _request_id() -> str:
    return str(uuid.uuid4())


def _name(name: StepName) -> broker_pb2.StepName:
    return broker_pb2.StepName(workflow=name.workflow, run=name.run, step=name.step)


def _begin_request(
    name: StepName, scopes: Sequence[str], max_duration: timedelta | None
) -> broker_pb2.BeginStepRequest:
    return broker_pb2.BeginStepRequest(
        request_id=_request_id(),
        name=_name(name),
        scopes=scopes,
        max_duration=_wire.duration(max_duration) if max_duration is not None else None,
    )


def _span(seconds: timedelta | float | None) -> timedelta | None:
    return timedelta(seconds=seconds) if isinstance(seconds, (int, float)) else seconds


def _list(scopes: Iterable[str]) -> list[str]:
    if isinstance(scopes, str):
        raise TypeError("scopes must be a list of names, not one string")
    return list(scopes)


def _seconds(span: timedelta | None, default: float) -> float:
    return span.total_seconds() if span is not None and span > timedelta() else default
