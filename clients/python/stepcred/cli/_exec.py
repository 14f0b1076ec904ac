"""`stepcred exec`: a step around one command."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import stepcred
from stepcred._credentials import Credential
from stepcred._errors import NeedsApproval, StepcredError
from stepcred._models import Access
from stepcred._outlets import Unusable, secrets_of
from stepcred.cli import _exits
from stepcred.cli._child import Child
from stepcred.cli._delivery import Delivery
from stepcred.cli._mask import SHORTEST, Secrets
from stepcred.cli._renewal import Renewal, Watch
from stepcred.cli._say import Teller, hearing_the_sdk, plain, say
from stepcred.cli._signals import Interrupted, SignalRelay
from stepcred.cli._wanted import Wanted

__all__ = ["Job", "approval", "explain", "run", "say"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What was asked on the command line; None is taken from the environment."""

    wanted: Wanted
    argv: Sequence[str]
    workflow: str | None
    run: str | None
    step: str | None
    handle: str = ""  # of a step that a launcher opened; then it has its names
    approval_timeout: timedelta | None = None  # how long to wait for operators; None: not at all
    mask: bool = True
    kill_after: timedelta = timedelta(seconds=20)  # from SIGTERM to SIGKILL; 0: never
    wait_broker: timedelta | None = None  # for a broker that is not there yet; None: as the settings say
    as_json: bool = False


def run(job: Job) -> int:
    """The child's exit code, or one of ours when it was never started. All credentials end with it."""
    return _Exec(job).run()


class _Exec:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._teller = Teller(as_json=job.as_json)
        self._secrets = Secrets()
        self._step: stepcred.Step | None = None
        self._child: Child | None = None

    def run(self) -> int:
        """1 the step. 2 the child in it. 3 the step's end. 4 what the child wrote last, and then our last word."""
        code: int | None = None
        said: Sequence[str] = ()
        try:
            with (
                hearing_the_sdk(lambda record: self._teller.tell("warning", record.getMessage())),
                SignalRelay() as relay,
            ):
                try:
                    with (
                        Delivery(self._job.wanted, self._teller) as delivery,
                        stepcred.connect(wait_broker=self._job.wait_broker) as broker,
                    ):
                        with self._opened(broker) as step:  # 1
                            try:
                                code = self._in_step(step, delivery, relay)  # 2
                            finally:
                                relay.hold()  # without a child, too, a signal does not keep the end from being told
                        said = [step.summary()]  # 3
                finally:
                    if self._child is not None:
                        self._child.finish()  # 4
        except StepcredError as error:
            said = _exits.lines_of(error)
            # What the child did is done; a failed end of the step does not change its result.
            code = _exits.exit_code(error) if code is None else code
        except (Unusable, OSError) as problem:  # of a file's place, before anything is opened
            said = [_why(problem)]
            code = _exits.USAGE if isinstance(problem, Unusable) else _exits.CANNOT_WRITE
        except Interrupted as interrupted:
            ended = self._step is not None and self._step.deadline
            said = getattr(interrupted, "__notes__", []) or ([self._step.summary()] if self._step and ended else [])
            code = interrupted.exit_code
        return self._ended(code, said)

    def _ended(self, code: int, said: Sequence[str]) -> int:
        self._teller.waits = True  # nothing is alive that a slow reader could keep so
        for line in said[:-1]:
            self._teller.tell("error", line)
        leases = [plain(outcome) for outcome in self._step.outcomes] if self._step is not None else []
        self._teller.tell("ended", *said[-1:], exit_code=code, leases=leases)
        return code

    def _opened(self, broker: stepcred.Broker) -> stepcred.Step:
        job = self._job
        if job.handle:
            self._step = broker.join(job.handle)
        else:
            self._step = broker.step(workflow=job.workflow, run=job.run, step=job.step, scopes=job.wanted.scopes)
        return self._step

    def _in_step(self, step: stepcred.Step, delivery: Delivery, relay: SignalRelay) -> int:
        scopes = self._job.wanted.scopes
        verdicts = step.check(scopes) if self._job.handle else step.verdicts
        refused = [verdict for verdict in verdicts if verdict.access not in (Access.GRANTED, Access.NEEDS_APPROVAL)]
        if refused:  # before anything is minted for the others
            for verdict in refused:
                told = {"scope": verdict.scope, "reason": verdict.reason, "reference_id": verdict.reference_id}
                self._teller.tell("refused", *explain(verdict), **told)
            return _exits.DENIED
        issued = self._issued(step, [one.scope for one in verdicts if one.access is Access.NEEDS_APPROVAL])
        if issued is None:
            return _exits.RETRY_LATER
        try:
            return self._with(step, issued, delivery, relay)
        finally:
            delivery.remove()  # before the wait for evidence

    def _with(
        self, step: stepcred.Step, issued: Mapping[str, Credential], delivery: Delivery, relay: SignalRelay
    ) -> int:
        wanted = self._job.wanted
        try:
            environ = delivery.environment(issued, os.environ)
            delivery.write(issued)
        except Unusable as problem:
            self._teller.tell("error", str(problem))
            return _exits.USAGE
        except OSError as problem:
            self._teller.tell("error", _why(problem))
            return _exits.CANNOT_WRITE
        self._learn(issued)
        self._child = Child(
            relay,
            secrets=self._secrets if self._job.mask else None,
            kill_after=self._job.kill_after.total_seconds(),
            teller=self._teller,
            watch=Watch(step, [one for scope, one in issued.items() if scope not in wanted.renewable], self._teller),
        )
        with Renewal(step, wanted.renewable, issued, delivery=delivery, secrets=self._secrets, teller=self._teller):
            try:
                self._child.start(self._job.argv, environ)
            except OSError as error:
                self._teller.tell("error", f"{self._job.argv[0]}: {error.strerror}")
                missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
                return _exits.NOT_FOUND if missing else _exits.NOT_EXECUTABLE
            return self._child.wait()

    def _learn(self, issued: Mapping[str, Credential]) -> None:
        for scope, credential in issued.items():
            short = self._secrets.add(secrets_of(credential))
            if short and self._job.mask:
                what = "a value is" if short == 1 else f"{short} values are"
                self._teller.tell(
                    "not-masked",
                    f"{scope}: {what} shorter than {SHORTEST} characters and not masked in the output",
                    scope=scope,
                    values=short,
                )
            self._teller.tell("issued", **plain(credential.lease))

    def _issued(self, step: stepcred.Step, unapproved: Sequence[str]) -> dict[str, Credential] | None:
        """All credentials; None when operators must approve first, and we do not wait for them.

        Every approval is asked for before the first is waited for, and nothing is minted before all are there: what
        came first would be old by then.
        """
        kept = self._job.wanted.renewable

        def ask(scope: str) -> Credential:
            return step.credential(scope) if scope in kept else step.issue(scope)

        early: dict[str, Credential] = {}
        waiting: list[NeedsApproval] = []
        for scope in unapproved:
            try:
                early[scope] = ask(scope)  # this is what asks; approved at this very moment, it is issued
            except NeedsApproval as needed:
                waiting.append(needed)
        if waiting and self._job.approval_timeout is None:
            for one in waiting:
                self._tell_approval("needs", one)
            return None
        if waiting and self._job.approval_timeout is not None:
            step.wait_for_approval(
                waiting,
                approval_timeout=self._job.approval_timeout,
                on_waiting=lambda now: self._tell_approval("waiting for", now),
            )
        return {scope: early[scope] if scope in early else ask(scope) for scope in self._job.wanted.scopes}

    def _tell_approval(self, what: str, needed: NeedsApproval) -> None:
        given, of, until = needed.approvals_given, needed.approvals_needed, needed.approval_expires_at
        by = approval(needed.approval_id, given=given, of=of, until=until)
        how = f"an operator runs: stepcred admin approvals approve {needed.approval_id}"
        told = {"scope": needed.scope, "approval_id": needed.approval_id, "approvals_given": given}
        self._teller.tell(
            "approval", f"{needed.scope}: {what} approval {by}; {how}", **told, approvals_needed=of, until=plain(until)
        )


def _why(problem: Exception) -> str:
    if isinstance(problem, OSError):
        return f"{problem.filename}: {problem.strerror}" if problem.filename else str(problem.strerror)
    return str(problem)


def approval(approval_id: str, *, given: int, of: int, until: datetime | None) -> str:
    """For people: "abcd (1 of 2), until 2026-11-28 10:05Z"."""
    return f"{approval_id} ({given} of {of})" + (f", until {until.astimezone(UTC):%Y-%m-%d %H:%MZ}" if until else "")


def explain(verdict: stepcred.ScopeVerdict) -> list[str]:
    """Why a scope is not to be had, as far as the broker tells, and what would change it."""
    lines = [f"{verdict.scope}: {verdict.access.value.lower().replace('_', ' ')} [{verdict.reason}]"]
    if verdict.approval_id:
        given, of = verdict.approvals_given, verdict.approvals_needed
        lines.append(
            f"  approval   {approval(verdict.approval_id, given=given, of=of, until=verdict.approval_expires_at)}"
        )
    elif verdict.approvals_needed:
        lines.append(
            f"  approval   by {verdict.approvals_needed}; it is asked for when the step asks for the credential"
        )
    if verdict.rule:
        lines.append(f"  rule       {verdict.rule}" + (f" ({verdict.position})" if verdict.position else ""))
    if verdict.smallest_fix:
        lines.append("  would fix  " + "\n             ".join(verdict.smallest_fix.splitlines()))
    if verdict.reference_id:
        lines.append(f"  reference  {verdict.reference_id}")
    return lines
