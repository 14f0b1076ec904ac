"""What AWS refuses, through the daemon: one clear cause each for the operator, a closed lease, no charge, no leak.

The answers are those that AWS documents; a real STS gives some of them on demand (test_aws_sts, test_aws_real_sts).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from broker.model import Evidence, LeaseState
from tests.e2e.lake import MORE
from tests.e2e.wire import Wire, issue, wire
from tests.e2e.world import journal
from tests.support.aws import aws_section
from tests.support.daemon import HEAD, Deployment
from tests.support.sts import ToldSts, error, told_sts

KEY = "throwAwaySecretKeyOfTheBroker"
WORDS = "User: arn:aws:iam::123456789012:user/broker is not authorized, token FQoGZXIvYXdzEJr"
LOAD = "workflow/nightly/step/load"
MAP = f"""{HEAD}
scopes:
  plain: {{aws: {{role_arn: "arn:aws:iam::123456789012:role/etl", regions: [eu-west-1], revoke: bound,
    statements: [{{Effect: Allow, Action: "s3:GetObject", Resource: "arn:aws:s3:::lake/*"}}]}}, ttl: 10m, tier: low}}
  tagged: {{aws: {{role_arn: "arn:aws:iam::123456789012:role/etl", regions: [eu-west-1], revoke: bound,
    session_tags: {{Workflow: "{{workflow}}"}}, source_identity: lease,
    statements: [{{Effect: Allow, Action: "s3:GetObject", Resource: "arn:aws:s3:::lake/*"}}]}}, ttl: 10m, tier: low}}
grants:
  nightly: {{workloads: [load], workflows: [nightly], scopes: [plain, tagged], max_step: 2h}}
"""
REFUSED = {
    "wrong account, missing role, or a trust policy that refuses": (403, "AccessDenied", "plain", "does not exist, or its trust policy"),
    "tags and source identity that the trust policy does not allow": (403, "AccessDenied", "tagged", "sts:TagSession and sts:SetSourceIdentity"),
    "longer than the role allows": (400, "ValidationError", "plain", "maximum session duration"),
    "a policy that AWS cannot read": (400, "MalformedPolicyDocument", "plain", "malformed session policy"),
    "too much, packed": (400, "PackedPolicyTooLarge", "tagged", "too large once packed"),
    "a clock that is off": (403, "SignatureDoesNotMatch", "plain", "or its clock"),
    "a clock that is far off": (400, "RequestExpired", "plain", "compare the clocks"),
    "expired credentials of the broker": (403, "ExpiredToken", "plain", "own credentials have expired"),
    "unknown credentials of the broker": (403, "InvalidClientTokenId", "plain", "access key is unknown"),
    "a region without STS": (403, "RegionDisabledException", "plain", "not active in this region"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sts() -> Iterator[ToldSts]:
    with told_sts((500, "")) as made:
        yield made


@pytest.fixture(scope="module")
def deployment(sts: ToldSts, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    folder = tmp_path_factory.mktemp("refused")
    aws = aws_section(sts.url, folder, ("AKIAEXAMPLE", KEY))
    return Deployment(folder / "daemon", MAP, aws=aws, more=MORE)


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> Iterator[Wire]:
    with deployment.daemon(ready=deployment.alive), wire(deployment, deployment.agent(LOAD)) as made:
        yield made


@pytest.mark.parametrize("what", REFUSED)
def test_each_refusal_is_told_clearly_closes_the_lease_and_costs_nothing(
    what: str, sts: ToldSts, deployment: Deployment, client: Wire
) -> None:
    status, code, scope, text = REFUSED[what]
    sts.answer = (status, error(code, WORDS))
    handle = client.begin(what.replace(" ", "-").replace(",", ""), scope)
    sts.requests.clear()
    refusal = client.refused("IssueCredential", issue(handle, scope))
    assert (refusal.reason, refusal.code) == ("PROVIDER_FAILED", grpc.StatusCode.ABORTED)
    assert refusal.retry_after is not None
    assert [asked["Action"] for asked in sts.requests].count("AssumeRole") == 1  # beside /readyz's questions
    assert not any(word in refusal.text() for word in (KEY, "AKIA", "arn:", code))
    record = journal(deployment, "LEASE_VOID")[-1]
    assert text in record["data"]["problem"]
    assert "check --live" in record["data"]["problem"]
    with deployment.store() as store:
        lease = store.read(lambda tx: tx.lease(record["lease_id"]))
        assert lease is not None
        guard = store.read(lambda tx: tx.guard_row(lease.guard_key))
    assert (lease.state, lease.evidence) == (LeaseState.VOID, Evidence.NOT_MINTED)
    assert guard is None or guard.spent == 0


def test_nothing_that_aws_said_and_no_key_is_left_anywhere(deployment: Deployment, client: Wire) -> None:
    client.whoami()
    written = b"".join(path.read_bytes() for path in _files(deployment))
    for secret in (KEY, WORDS, WORDS[:60], "FQoGZXIvYXdz"):
        assert secret.encode() not in written


def _files(deployment: Deployment) -> list[Path]:
    """Log and database, with what is beside it."""
    database = deployment.database
    found = [deployment.log, *database.parent.glob(f"{database.name}*")]
    assert database in found
    return found
