"""One step, without I/O: what is asked for, held, refused and given back. Each operation is a flow (`_flow`)."""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from stepcred import _models as models
from stepcred import _wire
from stepcred._approvals import Tell, Waiting, wait
from stepcred._calls import RETRIES, Calls
from stepcred._credentials import Credential
from stepcred._errors import BrokerUnavailable, NeedsApproval, Refused, StepcredError, StepEnded
from stepcred._flow import Flow, Pause
from stepcred._keeping import Keeping, kept
from stepcred._refusals import Given, Question, Refusals, is_final
from stepcred._requests import begin_request, checked_timeout, in_seconds, new_request_id, scope_names
from stepcred._settings import StepName, seconds_of
from stepcred.v1 import broker_pb2

log = logging.getLogger("stepcred")

BEAT_TIMEOUT = 5.0  # seconds; well below the broker's silence bound
BEAT_AGAIN = 2.0  # seconds until the next heartbeat after one that failed
ISSUE = "IssueCredential"
_LOOKS = (0.1, 0.2, 0.4, *itertools.repeat(0.8, 60))  # seconds between questions, at most a minute's worth
# Nothing of it can be delivered any more, or nothing was made: a new request, which is charged, may succeed.
ANEW = frozenset({"PROVIDER_FAILED", "REPLAY_LOST"})


@dataclass(kw_only=True, slots=True)
class StepCore:
    """One step of ours: its handle, what it holds, and what became of it. `held` is touched by the heartbeat too."""

    broker: Calls
    wait: float  # seconds to wait for evidence at the end
    name: StepName | None = None  # None: opened by a launcher, who knows
    scopes: tuple[str, ...] = ()
    max_duration: timedelta | None = None
    patience: float = 0.0  # seconds to wait for an approval, unless `issue` says otherwise
    retry: int = 1  # how often `issue` asks anew, unless it says otherwise

    handle: str = field(default="", repr=False)  # given beforehand: of a step to join
    attempt: int = 0
    interval: float = 10.0
    deadline: datetime | None = None
    verdicts: tuple[models.ScopeVerdict, ...] = ()
    outcomes: tuple[models.LeaseOutcome, ...] = ()
    all_proven: bool = False
    begun: bool = False
    alive: bool = False
    ended_by_broker: bool = False
    end_told: Refused | None = field(default=None, repr=False)  # how the broker told us that it has ended the step
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
            self.begun = self.alive = True
            return
        request = begin_request(self.name, self.scopes, self.max_duration)
        response = yield from self.broker.call("BeginStep", request)
        self.handle, self.attempt = response.step_handle, response.attempt
        self.interval = in_seconds(_wire.span_of(response, "heartbeat_interval"), self.interval)
        self.deadline = _wire.time_of(response, "deadline")
        self.verdicts = tuple(_wire.scope_verdict(verdict) for verdict in response.scopes)
        self.begun = self.alive = True

    def issue(
        self,
        scope: str,
        given: Given,
        *,
        timeout: float | None = None,
        patience: float | None = None,
        tell: Tell | None = None,
        retry: int | None = None,
        keep: bool = False,
    ) -> Flow[Credential]:
        """With patience, anew as soon as operators have approved it; `timeout` then begins again."""
        patience = self.patience if patience is None else patience
        deadline = self.broker.monotonic() + patience
        for waits in itertools.count(1):
            try:
                return (yield from self._issue(scope, given, timeout=timeout, retry=retry, keep=keep))
            except NeedsApproval as needed:
                if not patience:
                    raise
                waiting, left = needed, deadline - self.broker.monotonic()
            yield from self.wait_for_approval([waiting], patience=left, tell=tell, waits=waits)
        raise AssertionError  # count() does not end

    def _issue(
        self, scope: str, given: Given, *, timeout: float | None, retry: int | None, keep: bool
    ) -> Flow[Credential]:
        """Once, and as often as `retry` says what was lost or not made is asked for anew. One deadline for all of it.

        What stands from an earlier question is raised at once: only what is answered now is waited for.
        """
        monotonic = self.broker.monotonic
        retry = self.retry if retry is None else retry
        deadline = monotonic() + checked_timeout(self.broker.timeout if timeout is None else timeout)
        question = Question(method=ISSUE, about=scope, given=given)
        if self.alive:  # else the step's own end is the better answer
            self.refusals.must_be_asked(question, monotonic())
        for retries in itertools.count():
            try:
                left = max(deadline - monotonic(), 0.001)
                return (yield from self.issue_once(scope, given, timeout=left, keep=keep))
            except Refused as refused:
                pause = max(refused.retry_after or 0.0, self.refusals.pause(question, monotonic()))
                if retries >= retry or refused.reason not in ANEW or is_final(refused):
                    raise
                if monotonic() + pause >= deadline:
                    raise
                log.info("%s: asking anew in %.1f s: %s", scope, pause, refused)
            yield Pause(pause)
        raise AssertionError  # count() does not end

    def issue_once(
        self, scope: str, given: Given, *, timeout: float, keep: bool = False, request_id: str = ""
    ) -> Flow[Credential]:
        """Charged, unless it is a successor. `keep`: as the scope's one; the successor of what is kept always is."""
        request = broker_pb2.IssueCredentialRequest(
            request_id=request_id or new_request_id(), step_handle=self.handle, scope=scope, replaces=given.replaces
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
        if keep or given.replaces:
            times = {"sent": sent, "received": received, "interval": self.interval}
            one = kept(scope, credential, **times, uniform=self.broker.uniform)
            if self.keeping.put(one, instead_of=given.replaces) and given.replaces:
                with self.lock:
                    self.unclaimed[one.lease_id] = received + one.overlap
        return credential

    def claims_due(self) -> bool:
        """Are there successors that a heartbeat is to claim now? The next one does."""
        now = self.broker.monotonic()
        with self.lock:
            due = [lease_id for lease_id, at in self.unclaimed.items() if at <= now]
            for lease_id in due:
                del self.unclaimed[lease_id]
        return bool(due)

    def next_claim(self) -> float:
        """Seconds until one is due; infinite when none is."""
        with self.lock:
            return max(min(self.unclaimed.values(), default=math.inf) - self.broker.monotonic(), 0.0)

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

    def revoke(self, lease_id: str, *, wait: timedelta | float) -> Flow[models.LeaseOutcome]:
        wait = seconds_of("wait", wait)
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
        until = self.broker.monotonic() + self.wait
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
        self._ended(response)
        yield from self._wait_for_proof(request, until)

    def _ended(self, response: broker_pb2.EndStepResponse) -> None:
        self.outcomes = tuple(_wire.outcome(outcome) for outcome in response.leases)
        self.all_proven = response.all_proven

    def _wait_for_proof(self, request: broker_pb2.EndStepRequest, until: float) -> Flow[None]:
        """A broker where too many calls wait already answers at once: it is asked again, as long as that can help."""
        for pause in _LOOKS:
            left = until - self.broker.monotonic() - pause
            if self.all_proven or left <= 0 or not any(map(_is_being_killed, self.outcomes)):
                return
            yield Pause(pause)
            request.wait.CopyFrom(_wire.duration(timedelta(seconds=left)))
            try:
                self._ended((yield from self.broker.call("EndStep", request, timeout=self.broker.timeout + left)))
            except StepcredError as error:
                log.info("how the step's credentials stand could not be asked again: %s", error)
                return

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
                self._over(refused)
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
            if not self.begun:
                raise StepcredError("this step is not open yet: its calls work inside of its `with` block")
            known = self.end_told if isinstance(self.end_told, StepEnded) else None
            raise known.again(None) if known else StepEnded("this step has ended", reason="STEP_ENDED")
        try:
            return (yield from self.broker.call(method, request, timeout=timeout, retries=retries))
        except StepEnded as ended:
            if self.alive:
                log.warning("the broker has ended this step: %s", ended)
            self._over(ended)
            raise

    def _over(self, told: Refused) -> None:
        """The broker has ended the step."""
        self.alive, self.ended_by_broker, self.end_told = False, True, told
        self.keeping.changed()

    def _drop(self, lease_ids: Iterable[str]) -> None:
        gone = list(lease_ids)
        self.keeping.dropped(gone)
        with self.lock:
            for lease_id in gone:
                self.held.pop(lease_id, None)
                self.unclaimed.pop(lease_id, None)


def _is_being_killed(outcome: models.LeaseOutcome) -> bool:
    """Not seen dead, and it is not time alone that ends it."""
    return outcome.evidence is models.Evidence.UNSPECIFIED and outcome.revocability is models.Revocability.EXACT
