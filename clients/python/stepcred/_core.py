"""The client without I/O: what to send, what an answer means, when to try again.

Each operation is a generator, a *flow* (`_flow`).
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from stepcred import _models as models
from stepcred import _wire
from stepcred._approvals import Tell, Waiting, wait
from stepcred._credentials import Credential
from stepcred._errors import (
    BrokerUnavailable,
    DeadlineExceeded,
    NeedsApproval,
    Refused,
    SettingsError,
    StepcredError,
    StepEnded,
)
from stepcred._flow import Call, Flow, Pause
from stepcred._keeping import IDLE, OVERLAP, Keeping, Kept, elapsed, kept
from stepcred._refusals import Given, Question, Refusals, is_final
from stepcred._requests import (
    as_span,
    begin_request,
    checked_patience,
    checked_timeout,
    in_seconds,
    new_request_id,
    scope_names,
    step_name,
)
from stepcred._settings import StepName
from stepcred._status import CallFailed, error_of, may_retry, pushback
from stepcred.v1 import broker_pb2

log = logging.getLogger("stepcred")

RETRIES = 3
FIRST_PAUSE = 0.2  # seconds, doubled each time, ± half: a restarting broker must not meet all its clients at once
BEAT_TIMEOUT = 5.0  # seconds; well below the broker's silence bound
BEAT_AGAIN = 2.0  # seconds until the next heartbeat after one that failed
ISSUE = "IssueCredential"


@dataclass(kw_only=True, slots=True)
class BrokerCore:
    """One broker's address and default deadline; the calls that belong to no step."""

    addr: str
    timeout: float
    monotonic: Callable[[], float] = elapsed
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

    def check(
        self, name: StepName, scopes: Iterable[str], *, show_policy: bool = False
    ) -> Flow[tuple[models.ScopeVerdict, ...]]:
        request = broker_pb2.CheckAccessRequest(
            name=step_name(name), scopes=scope_names(scopes), show_policy=show_policy
        )
        response = yield from self.call("CheckAccess", request)
        return tuple(_wire.scope_verdict(verdict) for verdict in response.scopes)

    def step(
        self,
        name: StepName,
        scopes: Iterable[str],
        *,
        max_duration: timedelta | float | None,
        wait: float,
        approval_timeout: timedelta | float | None,
    ) -> StepCore:
        return StepCore(
            broker=self,
            name=name,
            scopes=tuple(scope_names(scopes)),
            max_duration=as_span(max_duration),
            wait=wait,
            patience=checked_patience(approval_timeout),
        )

    def join(self, handle: str, *, wait: float, approval_timeout: timedelta | float | None = None) -> StepCore:
        return StepCore(broker=self, wait=wait, handle=handle, patience=checked_patience(approval_timeout))

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
        request = begin_request(name, scope_names(scopes), as_span(max_duration))
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
    patience: float = 0.0  # seconds to wait for an approval, unless `issue` says otherwise

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
    unclaimed: dict[str, float] = field(default_factory=dict)  # successors that we hold → when to say so
    keeping: Keeping = field(default_factory=Keeping, repr=False)
    refusals: Refusals = field(default_factory=Refusals, repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def begin(self) -> Flow[None]:
        """Open the step, or join it: then a first heartbeat says that we are there."""
        if self.name is None:
            response = yield from self.broker.call("Heartbeat", broker_pb2.HeartbeatRequest(step_handle=self.handle))
            self.interval = in_seconds(_wire.span_of(response, "next_heartbeat"), self.interval)
            self.deadline = _wire.time_of(response, "deadline")
            self.alive = True
            return
        request = begin_request(self.name, self.scopes, self.max_duration)
        response = yield from self.broker.call("BeginStep", request)
        self.handle, self.attempt = response.step_handle, response.attempt
        self.interval = in_seconds(_wire.span_of(response, "heartbeat_interval"), self.interval)
        self.deadline = _wire.time_of(response, "deadline")
        self.verdicts = tuple(_wire.scope_verdict(verdict) for verdict in response.scopes)
        self.alive = True

    def issue(
        self,
        scope: str,
        given: Given,
        *,
        timeout: float | None,
        patience: float | None,
        tell: Tell | None,
        keep: bool = False,
    ) -> Flow[Credential]:
        """Once; with patience, once more as soon as operators have approved it."""
        patience = self.patience if patience is None else patience
        deadline = self.broker.monotonic() + patience
        for waits in itertools.count(1):
            try:
                return (yield from self._issue(scope, given, timeout=timeout, keep=keep))
            except NeedsApproval as needed:
                if not patience:
                    raise
                waiting, left = needed, deadline - self.broker.monotonic()
            yield from self.wait_for_approval([waiting], patience=left, tell=tell, waits=waits)
        raise AssertionError  # count() does not end

    def credential(self, scope: str, *, timeout: float | None) -> Flow[Credential]:
        """A new one, charged, that is kept from now on. For one caller at a time, who has looked what is kept."""
        credential = yield from self.issue(scope, Given(), timeout=timeout, patience=None, tell=None, keep=True)
        return credential

    def live(self, scope: str) -> Credential | None:
        """What is kept and has not ended."""
        return self.keeping.live(scope, self.broker.monotonic()) if self.alive else None

    def lasting(self, scope: str) -> Credential | None:
        """What is kept, which was live before; None: the step has ended. Raises why it can be kept no longer."""
        if not self.alive:
            return None
        one = self.keeping.of(scope)
        if one is None:
            raise Refused(f"the credential for {scope} was ended before its time", reason="LEASE_ENDED", scope=scope)
        if self.broker.monotonic() < one.ends:
            return one.credential
        if one.failure is not None:
            raise one.failure
        raise DeadlineExceeded(f"the credential for {scope} has ended, and no successor came in time")

    def left_of(self, scope: str) -> float:
        """Seconds until what is kept ends by its time."""
        one = self.keeping.of(scope)
        return min(max(one.ends - self.broker.monotonic(), 0.0), IDLE) if one is not None else 0.0

    def keep(self) -> Flow[float]:
        """What is due of successors, and of claiming them; seconds until something is again."""
        for one in self.keeping.due(self.broker.monotonic()):
            yield from self._succeed(one)
        if self._claim_is_due():
            yield from self.heartbeat()
        now = self.broker.monotonic()
        with self.lock:
            claims = [at - now for at in self.unclaimed.values()]
        return max(min([self.keeping.pause(now), *claims]), 0.0)

    def _succeed(self, one: Kept) -> Flow[None]:
        """Ask for the successor. A failure is never the step's own: what is kept has time left."""
        monotonic, given = self.broker.monotonic, Given(replaces=one.lease_id)
        left = max(one.ends - monotonic(), 0.001)
        try:
            newer = yield from self._issue(
                one.scope, given, timeout=min(self.broker.timeout, left), request_id=one.request_id
            )
        except StepcredError as error:
            log.info("no successor for %s yet, or none at all: %s", one.scope, error)
            self.keeping.failed(one, error, now=monotonic())
            return
        current = self.keeping.of(one.scope)
        if current is None or current.credential is not newer:  # nobody wants it any more
            try:
                yield from self.revoke(newer.lease.lease_id, wait=0.0)
            except StepcredError as error:
                log.info("a successor for %s that is not wanted was not taken back: %s", one.scope, error)

    def _claim_is_due(self) -> bool:
        now = self.broker.monotonic()
        with self.lock:
            due = [lease_id for lease_id, at in self.unclaimed.items() if at <= now]
            for lease_id in due:
                del self.unclaimed[lease_id]
        return bool(due)

    def _issue(
        self, scope: str, given: Given, *, timeout: float | None, keep: bool = False, request_id: str = ""
    ) -> Flow[Credential]:
        request = broker_pb2.IssueCredentialRequest(
            request_id=request_id or new_request_id(),
            step_handle=self.handle,
            scope=scope,
            replaces=given.replaces,
        )
        if given.public_key:
            request.public_key = given.public_key
        elif given.csr:
            request.csr = given.csr
        sent = self.broker.monotonic()
        try:
            response = yield from self._ask(Question(method=ISSUE, about=scope, given=given), request, timeout=timeout)
        except Refused as refused:
            refused.scope = scope
            raise
        credential, received = _wire.credential(response), self.broker.monotonic()
        with self.lock:
            self.held[credential.lease.lease_id] = credential.lease
        if keep or given.replaces:  # whoever asked for it, the successor of what is kept is kept
            one = kept(scope, credential, sent=sent, received=received, uniform=self.broker.uniform)
            if self.keeping.put(one, instead_of=given.replaces) and given.replaces:
                with self.lock:
                    self.unclaimed[one.lease_id] = received + min(OVERLAP, self.interval)
        return credential

    def check(
        self, scopes: Iterable[str], *, show_policy: bool = False, retries: int = RETRIES
    ) -> Flow[tuple[models.ScopeVerdict, ...]]:
        """What `issue` would be answered now. Costs nothing."""
        request = broker_pb2.CheckAccessRequest(
            step_handle=self.handle, scopes=scope_names(scopes), show_policy=show_policy
        )
        response = yield from self._call("CheckAccess", request, retries=retries)
        return tuple(_wire.scope_verdict(verdict) for verdict in response.scopes)

    def wait_for_approval(
        self, waiting: Iterable[NeedsApproval], *, patience: float, tell: Tell | None, waits: int = 1
    ) -> Flow[None]:
        """Until all of it is granted; `patience` in seconds."""
        monotonic, wanted = self.broker.monotonic, Waiting(waiting, tell)
        try:
            yield from wait(
                lambda scopes: self.check(scopes, retries=0),
                wanted,
                deadline=monotonic() + patience,
                monotonic=monotonic,
                uniform=self.broker.uniform,
                waits=waits,
            )
        except Refused as refused:
            if refused.scope and is_final(refused):
                self.refusals.heard(Question(method=ISSUE, about=refused.scope), refused, monotonic())
            raise
        for scope in wanted.scopes:
            self.refusals.helped(Question(method=ISSUE, about=scope), monotonic())

    def revoke(self, lease_id: str, *, wait: float) -> Flow[models.LeaseOutcome]:
        request = broker_pb2.RevokeLeaseRequest(
            request_id=new_request_id(),
            step_handle=self.handle,
            lease_id=lease_id,
            wait=_wire.duration(timedelta(seconds=wait)),
        )
        question = Question(method="RevokeLease", about=lease_id)
        response = yield from self._ask(question, request, timeout=self.broker.timeout + wait)
        self._drop([lease_id])
        return _wire.outcome(response.lease)

    def end(self) -> Flow[None]:
        """Ask for the end and wait for evidence. A step that the broker has ended already is no failure."""
        self.alive = False
        self.keeping.changed()
        request = broker_pb2.EndStepRequest(
            request_id=new_request_id(), step_handle=self.handle, wait=_wire.duration(timedelta(seconds=self.wait))
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
            held = [lease_id for lease_id in self.held if lease_id not in self.unclaimed]
        request = broker_pb2.HeartbeatRequest(step_handle=self.handle, held_lease_ids=held)
        try:
            response = yield from self._call("Heartbeat", request, timeout=BEAT_TIMEOUT, retries=0)
        except StepEnded:
            return self.interval
        except Refused as refused:
            log.warning("heartbeat refused: %s", refused)
            if is_final(refused) and refused.reason != "INVALID_ARGUMENT":  # that is about what is held
                self._over()
            return max(self.interval, refused.retry_after or 0.0)
        except StepcredError as error:
            log.info("heartbeat failed, trying again: %s", error)
            return min(self.interval, BEAT_AGAIN)
        self._drop(response.ended_lease_ids)
        self.deadline = _wire.time_of(response, "deadline") or self.deadline
        return in_seconds(_wire.span_of(response, "next_heartbeat"), self.interval)

    def summary(self) -> str:
        """One line for people about the end of the step."""
        if self.ended_by_broker and not self.outcomes:
            return "the broker had already ended this step"
        return models.summary(self.outcomes)

    def _ask(self, question: Question, request: Any, *, timeout: float | None) -> Flow[Any]:
        """A call that is sent only while what was answered before leaves another answer possible."""
        if self.alive:  # else the step's own end is the better answer
            self.refusals.must_be_asked(question, self.broker.monotonic())
        try:
            response = yield from self._call(question.method, request, timeout=timeout)
        except (Refused, BrokerUnavailable) as answer:
            self.refusals.heard(question, answer, self.broker.monotonic())
            raise
        self.refusals.helped(question, self.broker.monotonic())
        return response

    def _call(self, method: str, request: Any, *, timeout: float | None = None, retries: int = RETRIES) -> Flow[Any]:
        """A call about the open step; learns from the answer when it is open no more."""
        if not self.alive:
            raise StepEnded("this step has ended", reason="STEP_ENDED")
        try:
            return (yield from self.broker.call(method, request, timeout=timeout, retries=retries))
        except StepEnded as ended:
            if self.alive:
                log.warning("the broker has ended this step: %s", ended)
            self._over()
            raise

    def _over(self) -> None:
        """The broker has ended the step."""
        self.alive, self.ended_by_broker = False, True
        self.keeping.changed()

    def _drop(self, lease_ids: Iterable[str]) -> None:
        gone = list(lease_ids)
        self.keeping.dropped(gone)
        with self.lock:
            for lease_id in gone:
                self.held.pop(lease_id, None)
                self.unclaimed.pop(lease_id, None)
