"""A busy evening of the company acme, invented: what `admin top` is shown with, in tests and in its picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from stepcred.cli._top import answers
from stepcred.cli._top.model import Snapshot
from stepcred.v1 import lease_pb2
from stepcred.v1 import operator_pb2 as pb

EVENING = datetime(2026, 12, 1, 22, 14, 40, tzinfo=UTC)
_DOMAIN = "spiffe://prod.acme.internal"
_RUN = "scheduled__2026-12-01T22:00:00+00:00"
_DIGEST = "9f2c41d0" * 8


@dataclass
class Acme:
    """All that one broker answers, at `now`."""

    now: datetime = EVENING
    health: pb.GetHealthResponse = field(default_factory=pb.GetHealthResponse)
    steps: list[pb.OperatorStep] = field(default_factory=list)
    leases: list[pb.OperatorLease] = field(default_factory=list)
    keys: list[pb.GuardKey] = field(default_factory=list)
    approvals: list[pb.Approval] = field(default_factory=list)
    freezes: list[pb.FreezeEntry] = field(default_factory=list)
    alerts: list[pb.Alert] = field(default_factory=list)

    def lists(self) -> dict[str, Any]:
        """For the fake service."""
        names = ("health", "steps", "leases", "keys", "approvals", "freezes", "alerts")
        return {name: getattr(self, name) for name in names}


def snapshot_of(acme: Acme) -> Snapshot:
    """As the client holds it, without asking anybody."""
    return Snapshot(
        at=acme.now,
        health=answers.health(acme.health),
        steps=tuple(map(answers.step, acme.steps)),
        leases=tuple(map(answers.lease, acme.leases)),
        keys=tuple(map(answers.key, acme.keys)),
        approvals=tuple(map(answers.approval, acme.approvals)),
        freezes=tuple(map(answers.freeze, acme.freezes)),
        alerts=tuple(map(answers.alert, acme.alerts)),
        cut=frozenset(),
    )


class _Opened(NamedTuple):
    """Age and rest in minutes; of the scope: its name, how many are left, of how many, tier."""

    workflow: str
    run: str
    step: str
    attempt: int
    age: int
    left: int
    live: int
    budget: tuple[str, int, int, str] | None


class _Minted(NamedTuple):
    """Seconds: since it was asked for, until it ends, since its end was asked for (0 = it was not)."""

    lease_id: str
    workflow: str
    step: str
    scope: str
    tier: str
    provider: str
    state: str
    age: int
    left: int
    dying: int
    tries: int
    problem: str


def evening(now: datetime = EVENING) -> Acme:
    acme = Acme(now=now)
    for step in (
        ("nightly-etl", _RUN, "extract", 1, 14, 106, 2, ("orders-read", 9, 10, "low")),
        ("nightly-etl", _RUN, "load", 2, 3, 57, 1, ("lake-write", 1, 3, "high")),
        ("nightly-etl", _RUN, "report", 1, 1, 59, 0, None),
        ("billing", "manual__2026-12-01", "invoice", 1, 41, 19, 1, ("ledger-write", 2, 3, "high")),
        ("ml-train", "2026w48-7", "fetch", 4, 12, 228, 0, ("features-read", 0, 5, "elevated")),
        ("ml-train", "2026w48-7", "publish", 1, 1, 239, 1, ("models-push", 4, 5, "elevated")),
    ):
        _add_step(acme, _Opened(*step))
    for lease in (
        ("q7mhxw3kd2v5tn4c", "nightly-etl", "extract", "orders-read", "low", "vault", "ACTIVE", 260, 340, 0, 0, ""),
        ("b5ykzr2ptd6w3jqa", "nightly-etl", "extract", "orders-read", "low", "vault", "ACTIVE", 41, 559, 0, 0, ""),
        ("h3cvn6wq4xk7m2rd", "nightly-etl", "load", "lake-write", "high", "aws", "ACTIVE", 118, 182, 0, 0, ""),
        ("t2jd5qk8vz4m6xwy", "billing", "invoice", "ledger-write", "high", "vault", "ACTIVE", 580, 20, 0, 0, ""),
        ("w6xq3mzr7ck2hv5d", "ml-train", "publish", "models-push", "elevated", "vault", "INTENT", 2, 598, 0, 0, ""),
        ("k4nd7tz2yq5wc3mh", "ml-train", "fetch", "features-read", "elevated", "vault", "REVOKING", 700, 100, 192, 9,
         "vault: 503 Service Unavailable: standby node is not active"),
        ("m7rw2xh5kd3qvz6t", "nightly-etl", "load", "lake-write", "high", "aws", "REVOKING", 150, 140, 24, 2,
         "deny is written, not yet seen to refuse"),
        ("z5vk6cm3tq7hn2xd", "ml-train", "fetch", "features-read", "elevated", "vault", "IN_DOUBT", 420, 380, 0, 4,
         "mint timed out after 10 s"),
    ):  # fmt: skip
        _add_lease(acme, _Minted(*lease))
    _add_hour(acme)
    _add_people(acme)
    _count(acme)
    return acme


def _add_step(acme: Acme, opened: _Opened) -> None:
    workflow, run, step, attempt, age, left, live, budget = opened
    told = pb.OperatorStep(
        step_id=f"{workflow}-{step}-{attempt}",
        agent=f"{_DOMAIN}/workflow/{workflow}/step/{step}",
        workflow=workflow,
        run=run,
        step=step,
        attempt=attempt,
        open=True,
        launcher=f"{_DOMAIN}/scheduler" if workflow == "nightly-etl" else "",
        scopes=[budget[0]] if budget else ["report-mail"],
        live_leases=live,
    )
    told.opened_at.FromDatetime(acme.now - timedelta(minutes=age))
    told.deadline.FromDatetime(acme.now + timedelta(minutes=left))
    told.last_heartbeat.FromDatetime(acme.now - timedelta(seconds=4))
    acme.steps.append(told)
    if budget is not None:
        scope, remaining, allowed, tier = budget
        key = pb.GuardKey(
            key=f"{len(acme.keys) + 1:x}c8e" * 16,
            tier=tier,
            state="OPEN" if remaining else "LOCKED",
            workload=step,
            captures={"workflow": workflow},
            workflow=workflow,
            run=run,
            step=step,
            scope=scope,
            spent=allowed - remaining,
            allowed=allowed,
            admitted=allowed - remaining + 1,
            ceiling=5 * allowed,
        )
        if not remaining:
            key.until.FromDatetime(acme.now + timedelta(minutes=52))
        acme.keys.append(key)


def _add_lease(acme: Acme, minted: _Minted) -> None:
    ident, workflow, step, scope, tier, provider, state, age, left, dying, tries, problem = minted
    of = next(one for one in acme.steps if (one.workflow, one.step) == (workflow, step))
    told = pb.OperatorLease(
        lease=lease_pb2.Lease(
            lease_id=ident,
            scope=scope,
            revocability=lease_pb2.REVOCABILITY_DENY_POLICY if provider == "aws" else lease_pb2.REVOCABILITY_EXACT,
        ),
        agent=of.agent,
        workflow=workflow,
        run=of.run,
        step=step,
        step_id=of.step_id,
        provider=provider,
        attempts=tries,
        last_problem=problem,
        state=state,
        tier=tier,
        end_reason="STEP_LOCKED" if dying > 100 else "REPLACED" if dying else "",
    )
    told.lease.expires_at.FromDatetime(acme.now + timedelta(seconds=left))
    told.intent_at.FromDatetime(acme.now - timedelta(seconds=age))
    if dying:
        told.revoking_at.FromDatetime(acme.now - timedelta(seconds=dying))
    acme.leases.append(told)


def _add_hour(acme: Acme) -> None:
    hour = pb.GuardKey(
        key="e1a7" * 16,
        hour=True,
        tier="high",
        state="HELD",
        workload="load",
        captures={"workflow": "backfill"},
        scope="lake-write",
        spent=12,
        allowed=12,
        reset_by="ann",
    )
    hour.reset_at.FromDatetime(acme.now - timedelta(hours=19))
    acme.keys.append(hour)


def _add_people(acme: Acme) -> None:
    report = acme.steps[2]
    approval = pb.Approval(
        approval_id="apr-5k2d7q",
        state="PENDING",
        agent=report.agent,
        workflow=report.workflow,
        run=report.run,
        step=report.step,
        step_id=report.step_id,
        scope="customer-export",
        tier="high",
        workload="report",
        owners=["group:data-platform"],
        rule="month-end",
        needed=2,
        votes=[pb.ApprovalVote(operator="bea", approve=True, reason="month end, ticket FIN-311")],
        digest=_DIGEST,
    )
    approval.requested_at.FromDatetime(acme.now - timedelta(minutes=1))
    approval.expires_at.FromDatetime(acme.now + timedelta(hours=7, minutes=59))
    acme.approvals.append(approval)
    freeze = pb.FreezeEntry(
        freeze_id="frz-2",
        selection=pb.Selection(workflow="backfill"),
        by="ann",
        reason="runs away since 21:50, INC-902",
    )
    freeze.at.FromDatetime(acme.now - timedelta(minutes=18))
    acme.freezes.append(freeze)
    for rule, severity, summary, age, count in (
        ("revocation_overdue", "critical", "lease k4nd7tz2yq5wc3mh is not proven dead after 3 min", 2, 1),
        ("guard_held", "critical", "lake-write of load workflow=backfill is held", 18, 1),
        ("guard_locked", "warning", "ml-train/2026w48-7/fetch is locked for features-read", 8, 3),
    ):
        alert = pb.Alert(
            rule=rule,
            severity=severity,
            summary=summary,
            runbook=f"alerts.md#{rule}",
            count=count,
            fingerprint=f"{rule}-1",
        )
        alert.since.FromDatetime(acme.now - timedelta(minutes=age))
        acme.alerts.append(alert)


def _count(acme: Acme) -> None:
    """What health says, from what is listed."""
    states = [lease.state for lease in acme.leases]
    acme.health = pb.GetHealthResponse(
        environment="prod",
        epoch=12,
        open_steps=len(acme.steps),
        intents=states.count("INTENT"),
        overdue=1,
        freezes=len(acme.freezes),
        approvals_waiting=len(acme.approvals),
        keys_locked=sum(key.state == "LOCKED" for key in acme.keys),
        keys_held=sum(key.state == "HELD" for key in acme.keys),
        alerts_firing=len(acme.alerts),
    )
    acme.health.oldest_revoking.FromDatetime(acme.now - timedelta(seconds=192))
    for name in ("vault", "aws"):
        of = [lease.state for lease in acme.leases if lease.provider == name]
        acme.health.providers.add(
            name=name,
            problems=["503 Service Unavailable from https://vault.acme.internal:8200"] if name == "vault" else [],
            breaker_open=name == "vault",
            active=of.count("ACTIVE"),
            revoking=of.count("REVOKING"),
            in_doubt=of.count("IN_DOUBT"),
        )
