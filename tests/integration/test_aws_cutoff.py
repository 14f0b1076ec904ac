"""After lost state: the role-wide cut-off as IAM gets it. Moto shows the calls; it ignores conditions (measured)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from broker.providers.aws.provider import AwsProvider
from broker.providers.base import DeclaredScope, Recovers, Standing, Sweep, Swept
from tests.fakes.clock import START, FakeClock
from tests.support.aws import aws_section
from tests.support.aws_orders import lease_of, providing, settings_of
from tests.support.daemon import Deployment
from tests.support.moto import MotoServer, moto_server

POLICY = "stepcred-cutoff-0123abcd"
SCOPES = """
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {{id: "spiffe://dev.local/step/load", owners: [group:data]}}
scopes:
  lake:
    aws: {{role_arn: "{arn}", regions: [eu-west-1], statements: [{{Effect: Allow, Action: "s3:*", Resource: "*"}}]}}
    ttl: 10m
    tier: elevated
grants:
  all: {{workloads: [load], workflows: [nightly], scopes: [lake], max_step: 2h}}
"""


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def aws(moto: MotoServer, clock: FakeClock, tmp_path: Path) -> AsyncIterator[AwsProvider]:
    async with providing(settings_of(moto, tmp_path), clock, epoch=0) as provider:
        yield provider


def scope(arn: str, *, minutes: int = 5, **changes: Any) -> DeclaredScope:
    statement = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    block = {"role_arn": arn, "regions": ["eu-west-1"], "statements": [statement], **changes}
    return DeclaredScope(block=block, ttl=timedelta(minutes=minutes))


async def sweep(aws: AwsProvider, *scopes: DeclaredScope) -> Swept:
    assert isinstance(aws, Recovers)
    return await aws.recover(Sweep(since=START, scopes=scopes, leases=frozenset(), children=frozenset()))


def policy_of(moto: MotoServer, role: str) -> Any:
    return moto.client("iam").get_role_policy(RoleName=role, PolicyName=POLICY)["PolicyDocument"]


async def test_every_session_older_than_now_is_denied_on_each_role_once(
    moto: MotoServer, aws: AwsProvider, clock: FakeClock
) -> None:
    one, two = moto.create_role("cut-one"), moto.create_role("cut-two")
    swept = await sweep(aws, scope(one), scope(one, minutes=30), scope(two))
    assert [text.split(": ")[0] for text in swept.cut_off] == [one, two]
    (statement,) = policy_of(moto, "cut-one")["Statement"]
    assert statement == {
        "Sid": "cut1795392000",  # the longest life of a session: it may be deleted then
        "Effect": "Deny",
        "Action": "*",
        "Resource": "*",
        "Condition": {"DateLessThan": {"aws:TokenIssueTime": "2026-11-22T12:00:00Z"}},
    }
    # Honest: it spreads in its own time; the longest ttl of the role's scopes is the bound.
    assert len(swept.unproven) == 2
    assert "at 2026-11-22T12:30:30Z all are over" in swept.unproven[0]
    clock.advance(100)
    await sweep(aws, scope(one))
    (statement,) = policy_of(moto, "cut-one")["Statement"]
    assert statement["Condition"]["DateLessThan"]["aws:TokenIssueTime"] == "2026-11-22T12:01:40Z"


async def test_what_cannot_be_cut_off_is_said_with_its_latest_end(moto: MotoServer, aws: AwsProvider) -> None:
    bound = moto.create_role("cut-bound")
    swept = await sweep(
        aws,
        scope(bound, revoke="bound"),
        scope(f"arn:aws:iam::{moto.account}:role/cut-missing"),
        scope("arn:aws:iam::999999999999:role/cut-bound"),
    )
    assert swept.cut_off == ()
    assert len(swept.unproven) == 3
    assert all("its sessions end by themselves at 2026-11-22T12:05:30Z" in text for text in swept.unproven)
    with pytest.raises(ClientError):
        policy_of(moto, "cut-bound")


@pytest.mark.parametrize(("past", "standing"), [(60, Standing.DEAD), (-60, Standing.UNKNOWN)])
async def test_only_a_sessions_bound_can_be_looked_at_again(
    aws: AwsProvider, clock: FakeClock, past: int, standing: Standing
) -> None:
    ref = lease_of({}, START, life=clock.now() - START - timedelta(seconds=past))
    assert (await aws.recheck(ref, None)).standing is standing


def test_the_command_cuts_off_the_roles_of_the_scope_map_and_stays_frozen(moto: MotoServer, tmp_path: Path) -> None:
    arn = moto.create_role("cut-command")
    made = Deployment(
        tmp_path / "daemon",
        SCOPES.format(arn=arn),
        aws=aws_section(moto.url, tmp_path, moto.key),
        timings={"mint_timeout": "1s"},
    )
    argv = [
        *made.argv[:3],
        "recover",
        "--config",
        str(made.config),
        "--since",
        "2026-01-01T00:00Z",
        "--json",
        "--unfreeze",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    report = json.loads(done.stdout)
    assert (done.returncode, report["frozen"], len(report["cut_off"])) == (1, True, 1)  # it spreads in its own time
    names = moto.client("iam").list_role_policies(RoleName="cut-command")["PolicyNames"]
    assert [name.startswith("stepcred-cutoff-") for name in sorted(names)] == [False, True]
    with made.store() as store:
        assert store.read(lambda tx: tx.control().frozen)
