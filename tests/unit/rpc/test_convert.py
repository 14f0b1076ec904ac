from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from broker.leases.beginning import ScopeAnswer
from broker.leases.committing import Delivered
from broker.leases.engine import Ended
from broker.leases.outcomes import Outcome
from broker.model import (
    AwsSession,
    Credential,
    Evidence,
    KeyValue,
    LeaseState,
    Revocability,
    RuleRef,
    Tier,
    UsernamePassword,
    VaultToken,
)
from broker.policy.decision import AccessRequest, Allowed, Concurrent, Denial, Denied
from broker.rpc import convert
from broker.secret import Secret
from stepcred.v1 import broker_pb2, credential_pb2, lease_pb2
from tests.fakes import domain

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
TOKEN = VaultToken(token=Secret("s"), address="https://vault:8200", namespace="ns")


def outcome(**changes: object) -> Outcome:
    fields: dict[str, object] = {
        "lease_id": "l",
        "scope": "s",
        "state": LeaseState.REVOKING,
        "revocability": Revocability.EXACT,
        "evidence": None,
        "time_to_dead": None,
        "exposed_until": NOW,
    }
    return Outcome(**{**fields, **changes})  # type: ignore[arg-type]  # a test's own keywords


@pytest.mark.parametrize("tier", Tier)
@pytest.mark.parametrize("revocability", Revocability)
@pytest.mark.parametrize("state", LeaseState)
def test_every_lease_has_a_wire_form(tier: Tier, revocability: Revocability, state: LeaseState) -> None:
    row = domain.lease(tier=tier, revocability=revocability, state=state)
    made = convert.issued(Delivered(lease=row, credential=TOKEN)).lease
    assert lease_pb2.LeaseState.Name(made.state).endswith(state.value)
    assert lease_pb2.Revocability.Name(made.revocability).endswith(revocability.value)
    assert lease_pb2.Tier.Name(made.tier).endswith(tier.name)
    assert made.successor_from.ToDatetime(UTC) < made.expires_at.ToDatetime(UTC)


@pytest.mark.parametrize("evidence", [*Evidence, None])
def test_every_outcome_has_a_wire_form(evidence: Evidence | None) -> None:
    made = convert.outcome(outcome(evidence=evidence, time_to_dead=timedelta(milliseconds=41)))
    name = lease_pb2.Evidence.Name(made.evidence)
    assert name.endswith(evidence.value if evidence else "UNSPECIFIED")
    assert made.time_to_dead.ToTimedelta() == timedelta(milliseconds=41)
    assert made.exposed_until.ToDatetime(UTC) == NOW


def test_all_proven_only_with_evidence_for_each() -> None:
    proven, open_ = outcome(evidence=Evidence.SEEN_DEAD), outcome()
    assert convert.ended(Ended(outcomes=(proven, proven))).all_proven
    assert not convert.ended(Ended(outcomes=(proven, open_))).all_proven
    assert convert.ended(Ended(outcomes=())).all_proven


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (TOKEN, "vault_token"),
        (UsernamePassword(username="u", password=Secret("p"), attributes={"host": "h"}), "username_password"),
        (
            AwsSession(
                access_key_id="a",
                secret_access_key=Secret("b"),
                session_token=Secret("c"),
                region="eu-west-1",
                endpoint_url="",
                session_expires_at=NOW,
            ),
            "aws_session",
        ),
        (KeyValue(data={"k": Secret("v")}, version=3), "key_value"),
    ],
)
def test_every_credential_is_revealed_in_its_own_field(value: Credential, kind: str) -> None:
    made = convert.issued(Delivered(lease=domain.lease(), credential=value)).credential
    assert [descriptor.name for descriptor, _ in made.ListFields()] == [kind]
    assert credential_pb2.Credential.FromString(made.SerializeToString()) == made


ASKED = AccessRequest(agent="spiffe://dev.local/a", workflow="w", run="r", step="s", scope="s", now=NOW)


def test_the_rule_and_the_fix_are_told_only_of_scopes_that_some_grant_gives() -> None:
    rule = RuleRef(name="nightly", file="/etc/stepcred/scopes.yaml", line=7)
    denied = {
        known: Denied(reason=Denial.OUTSIDE_WINDOW, message="m", known=known, rule=rule, smallest_fix="fix")
        for known in (True, False)
    }
    told = convert.verdict(ScopeAnswer(asked=ASKED, decision=denied[True], reference_id="ref"))
    assert (told.reason, told.rule, told.position) == ("OUTSIDE_WINDOW", "nightly", "scopes.yaml:7:1")
    hidden = convert.verdict(ScopeAnswer(asked=ASKED, decision=denied[False], reference_id="ref"))
    expected = broker_pb2.ScopeVerdict(
        scope="s", verdict=broker_pb2.VERDICT_REFUSED, reason="ACCESS_DENIED", reference_id="ref"
    )
    assert hidden == expected


def test_a_grant_says_what_it_gives() -> None:
    allowed = Allowed(
        scope="s",
        provider="vault",
        params={},
        tier=Tier.HIGH,
        revocability=Revocability.EXACT,
        ttl=timedelta(minutes=5),
        max_ttl=timedelta(hours=1),
        max_step=timedelta(hours=2),
        until=None,
        concurrent=Concurrent.REFUSE,
        rule=RuleRef(name="nightly", file="scopes.yaml", line=7),
        workload="load",
        captures={},
        fits=(("load", {}),),
    )
    made = convert.verdict(ScopeAnswer(asked=ASKED, decision=allowed))
    assert (made.verdict, made.tier) == (broker_pb2.VERDICT_GRANTED, lease_pb2.TIER_HIGH)
    assert made.ttl.ToTimedelta() == timedelta(minutes=5)
    waiting = convert.verdict(ScopeAnswer(asked=ASKED, decision=replace(allowed, approvals=2)))
    assert (waiting.verdict, waiting.reason) == (broker_pb2.VERDICT_NEEDS_APPROVAL, "NEEDS_APPROVAL")
    assert (waiting.rule, waiting.ttl) == (made.rule, made.ttl)
