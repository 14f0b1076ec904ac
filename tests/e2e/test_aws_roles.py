"""A real daemon whose broker may not write a role's policies: what its scope map may promise then (moto's IAM)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import stepcred
from tests.e2e.world import journal
from tests.support.aws import aws_section
from tests.support.daemon import Deployment
from tests.support.moto import MotoServer, moto_server

SCOPES = """
version: 1
environment: dev
trust_domain: dev.local
tiers:
  high: {{revocability: [DENY_POLICY]}}
workloads:
  load: {{id: "spiffe://dev.local/workflow/{{workflow}}/step/load", owners: [group:data]}}
scopes:
  lake:
    aws:
      role_arn: "{arn}"
      regions: [eu-west-1]
      statements: [{{Effect: Allow, Action: "s3:*", Resource: "*"}}]
      revoke: deny
    ttl: 5m
    tier: {tier}
grants:
  nightly: {{workloads: [load], workflows: [nightly], scopes: [lake], max_step: 2h}}
"""
LOOKS = ["iam:GetRole", "iam:ListRolePolicies", "iam:GetRolePolicy"]


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


def deployment(moto: MotoServer, folder: Path, name: str, tier: str, *rights: str) -> Deployment:
    arn = moto.create_role(name)
    allow = {"Effect": "Allow", "Action": ["sts:AssumeRole", *LOOKS, *rights], "Resource": arn}
    aws = aws_section(moto.url, folder, moto.create_user(name, allow), accept_unbounded_roles=True)
    return Deployment(folder / "daemon", SCOPES.format(arn=arn, tier=tier), aws=aws, timings={"drain_grace": "1s"})


def test_a_tier_that_demands_a_deny_is_not_loaded_where_none_can_be_written(moto: MotoServer, tmp_path: Path) -> None:
    made = deployment(moto, tmp_path, "high", "high")
    ended = subprocess.run(made.argv, capture_output=True, timeout=60, check=False, text=True)
    assert ended.returncode == 78
    why = f"is EXPIRY_ONLY (AWS refuses the broker iam:PutRolePolicy on arn:aws:iam::{moto.account}:role/high)"
    assert f"{why}, and tier high takes only DENY_POLICY" in ended.stderr
    moto.client("iam").put_user_policy(
        UserName="high",
        PolicyName="more",
        PolicyDocument='{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iam:PutRolePolicy","Resource":"*"}]}',
    )
    with made.daemon():  # until it is ready
        pass


def test_a_tier_that_takes_it_is_promised_the_bound_alone(moto: MotoServer, tmp_path: Path) -> None:
    made = deployment(moto, tmp_path, "low", "low")
    agent = made.agent("workflow/nightly/step/load")
    with (
        made.daemon(),
        stepcred.connect(made.addr, str(agent.cert), str(agent.key), str(agent.ca)) as broker,
        broker.step(workflow="nightly", run="1", step="load", scopes=["lake"]) as step,
    ):
        step.issue("lake")
    (issued,) = journal(made, "LEASE_INTENT")
    assert issued["data"]["revocability"] == "EXPIRY_ONLY"
    assert {record["reason"] for record in journal(made, "LEASE_PROGRESS")} == {"WAITING_FOR_BOUND"}
    assert moto.client("iam").list_role_policies(RoleName="low")["PolicyNames"] == ["permissions"]
