from __future__ import annotations

from datetime import timedelta

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from broker.alert import AlertRule
from broker.errors import Reason
from broker.metrics import MAX_SCOPES, Delivered, GuardBlock, IssueOutcome, Metrics
from broker.model import Evidence, LeaseState, Tier

SECOND = timedelta(seconds=1)


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """By name and label values; the exposition sorts labels by name."""
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_everything_counted_is_exposed_under_our_prefix() -> None:
    metrics = Metrics()
    metrics.lease_counts({LeaseState.ACTIVE: 3, LeaseState.REVOKED: 9})
    metrics.issue(scope="orders-read", provider="vault", outcome=IssueOutcome.ISSUED)
    metrics.mint("vault", SECOND)
    metrics.mint_in_doubt("vault")
    metrics.revocation("vault", SECOND, succeeded=True)
    metrics.dead("vault", Evidence.SEEN_DEAD, SECOND)
    metrics.revoking_overdue(2)
    metrics.steps_open(4)
    metrics.refusal(Reason.COOLING)
    metrics.guard_block(Tier.HIGH, GuardBlock.LOCKED)
    metrics.epoch(7)
    metrics.policy_generation(5)
    metrics.scope_map_load_failure()
    metrics.scope_map_refused(refused=False, teams=2)
    metrics.scope_map_refused(refused=True)
    metrics.alerts_firing({AlertRule.GUARD_HELD: 2})
    metrics.delivery("pager", Delivered.AWAY)
    metrics.rpc("IssueCredential", "OK", 1.0)
    found = samples(metrics)
    assert found["stepcred_leases", ("ACTIVE",)] == 3
    assert found["stepcred_leases", ("IN_DOUBT",)] == 0
    assert ("stepcred_leases", ("REVOKED",)) not in found
    assert found["stepcred_issues_total", ("issued", "vault", "orders-read")] == 1
    assert found["stepcred_mint_seconds_sum", ("vault",)] == 1
    assert found["stepcred_mints_in_doubt_total", ("vault",)] == 1
    assert found["stepcred_revocation_seconds_count", ("answered", "vault")] == 1
    assert found["stepcred_time_to_dead_seconds_sum", ("SEEN_DEAD", "vault")] == 1
    assert found["stepcred_revoking_overdue", ()] == 2
    assert found["stepcred_steps_open", ()] == 4
    assert found["stepcred_refusals_total", ("COOLING",)] == 1
    assert found["stepcred_guard_blocks_total", ("locked", "high")] == 1
    assert found["stepcred_epoch", ()] == 7
    assert found["stepcred_policy_generation", ()] == 5
    assert found["stepcred_scope_map_load_failures_total", ()] == 1
    assert found["stepcred_scope_map_refused", ()] == 1
    assert found["stepcred_alerts_firing", ("guard-held",)] == 2
    assert found["stepcred_alerts_firing", ("mint-rate",)] == 0
    assert found["stepcred_alert_deliveries_total", ("away", "pager")] == 1
    assert found["stepcred_scope_map_teams_refused", ()] == 2
    assert found["stepcred_rpc_seconds_count", ("OK", "IssueCredential")] == 1
    assert found["process_resident_memory_bytes", ()] > 0


def test_scopes_cannot_fill_memory() -> None:
    metrics = Metrics()
    for number in range(MAX_SCOPES + 50):
        metrics.issue(scope=f"scope-{number}", provider="vault", outcome=IssueOutcome.ISSUED)
    scopes = {labels[2] for name, labels in samples(metrics) if name == "stepcred_issues_total"}
    assert len(scopes) == MAX_SCOPES + 1
    assert samples(metrics)["stepcred_issues_total", ("issued", "vault", "other")] == 50


def test_two_brokers_in_one_process_count_apart() -> None:
    one, two = Metrics(), Metrics()
    one.steps_open(1)
    assert samples(two)["stepcred_steps_open", ()] == 0
