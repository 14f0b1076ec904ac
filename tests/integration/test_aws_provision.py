"""What `scopes provision --provider aws` prints: put on moto by the real aws CLI it is enough, and no more."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from broker.__main__ import main
from broker.model import AwsSession
from broker.providers.aws.provision import plan_of
from broker.providers.aws.provision_text import show
from broker.providers.base import DeclaredScope, MintOrder
from tests.support.aws_orders import lease_of, order_of, providing, settings_of
from tests.support.moto import ACCOUNT, MotoServer, moto_server

HEAD = """
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/workflow/{workflow}/step/load", owners: [group:data]}
grants:
  nightly: {workloads: [load], workflows: [nightly], scopes: [lake, log, tagged], max_step: 2h}
scopes:
  lake:
    ttl: 90m
    tier: high
    aws:
      role_arn: "arn:aws:iam::123456789012:role/data/etl"
      external_id: acme-prod
      regions: [eu-west-1]
      statements:
        - {Effect: Allow, Action: "s3:PutObject", Resource: "arn:aws:s3:::lake/{workflow}/it's-$(reboot)/*"}
        - Effect: Allow
          Action: "s3:ListBucket"
          Resource: "arn:aws:s3:::lake"
          Condition: {StringLike: {"s3:prefix": "{workflow}/*", "aws:PrincipalTag/team": "${aws:username}"}}
        - {Effect: Deny, Action: "s3:*", Resource: "arn:aws:s3:::lake/secret/*"}
  tagged:
    ttl: 10m
    tier: high
    aws:
      role_arn: "arn:aws:iam::123456789012:role/data/etl"
      external_id: acme-dev
      regions: [eu-west-1]
      session_tags: {team: "{workflow}"}
      source_identity: lease
      statements: [{Effect: Allow, Action: "s3:GetObject", NotResource: "arn:aws:s3:::other/{workflow}"}]
  log:
    ttl: 5m
    tier: low
    aws:
      role_arn: "arn:aws:iam::123456789012:role/logs"
      regions: [eu-west-1]
      statements: [{Effect: Allow, Action: "s3:PutObject", Resource: "arn:aws:s3:::logs/*"}]
"""
BROKER = f"arn:aws:iam::{ACCOUNT}:user/stepcred-broker"
ETL, LOGS = f"arn:aws:iam::{ACCOUNT}:role/data/etl", f"arn:aws:iam::{ACCOUNT}:role/logs"
BOUNDARY = f"arn:aws:iam::{ACCOUNT}:policy/etl-boundary"
AWS = shutil.which("aws")


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        server.create_bucket("lake")
        yield server


@pytest.fixture
def scope_map(tmp_path: Path) -> Path:
    path = tmp_path / "scopes.yaml"
    path.write_text(HEAD)
    return path


def printed(scope_map: Path, capsys: pytest.CaptureFixture[str], *more: str, form: str = "json") -> str:
    argv = ["scopes", "provision", str(scope_map), "--provider", "aws", "--broker-arn", BROKER, "--format", form, *more]
    assert main(argv) == 0
    return capsys.readouterr().out


@pytest.fixture
def plan(scope_map: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(printed(scope_map, capsys))


def test_the_broker_s_policy_names_roles_and_nothing_else(plan: Any) -> None:
    assert plan["broker"]["policy"]["document"]["Statement"] == [
        {"Sid": "Mint", "Effect": "Allow", "Action": "sts:AssumeRole", "Resource": [ETL, LOGS]},
        {"Sid": "Tag", "Effect": "Allow", "Action": "sts:TagSession", "Resource": ETL},
        {"Sid": "SetSource", "Effect": "Allow", "Action": "sts:SetSourceIdentity", "Resource": ETL},
        {
            "Sid": "Look",
            "Effect": "Allow",
            "Action": ["iam:GetRole", "iam:ListRolePolicies", "iam:GetRolePolicy"],
            "Resource": ETL,
        },
        {
            "Sid": "EndEarly",
            "Effect": "Allow",
            "Action": ["iam:PutRolePolicy", "iam:DeleteRolePolicy"],
            "Resource": ETL,
            "Condition": {"StringEquals": {"iam:PermissionsBoundary": BOUNDARY}},
        },
    ]


def test_a_role_trusts_the_broker_alone_and_is_bounded_by_its_scopes(plan: Any) -> None:
    etl, logs = plan["roles"]
    who = {"AWS": BROKER}
    assert etl["trust"]["Statement"] == [
        {
            "Effect": "Allow",
            "Principal": who,
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"sts:ExternalId": ["acme-dev", "acme-prod"]}},
        },
        {"Effect": "Allow", "Principal": who, "Action": ["sts:TagSession", "sts:SetSourceIdentity"]},
    ]
    assert logs["trust"]["Statement"] == [{"Effect": "Allow", "Principal": who, "Action": "sts:AssumeRole"}]
    assert etl["boundary"]["arn"] == BOUNDARY
    assert etl["boundary"]["document"] == etl["policy"]["document"]
    assert etl["boundary"]["document"]["Statement"] == [  # templates and conditions on them are as wide as can be
        {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::lake/*/it's-$(reboot)/*"},
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": "arn:aws:s3:::lake",
            "Condition": {"StringLike": {"aws:PrincipalTag/team": "${aws:username}"}},
        },
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"},
    ]
    assert (etl["path"], etl["name"], etl["max_session_seconds"]) == ("/data/", "etl", 5400)
    assert logs["boundary"] is None  # tier low waits for the bound: nobody writes its policies
    assert logs["max_session_seconds"] == 3600


def test_through_another_role_the_broker_itself_has_no_right_but_to_become_it() -> None:
    via, target = "arn:aws:iam::210987654321:role/stepcred-hub", "arn:aws:iam::210987654321:role/etl"
    block = {
        "role_arn": target,
        "via": via,
        "via_external_id": "acme-hub",
        "any_region": True,
        "statements": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
        "revoke": "deny",
    }
    made = plan_of(
        [DeclaredScope(block=block, ttl=timedelta(minutes=5), name="far")], broker_arn=BROKER, broker_policy="b"
    )
    assert made.broker.document["Statement"] == [
        {"Sid": "Mint", "Effect": "Allow", "Action": "sts:AssumeRole", "Resource": via}
    ]
    hub, etl = made.roles
    assert (hub.arn, etl.arn) == (via, target)
    assert hub.trust["Statement"][0]["Principal"] == {"AWS": BROKER}
    assert hub.trust["Statement"][0]["Condition"] == {"StringEquals": {"sts:ExternalId": "acme-hub"}}
    assert [statement["Sid"] for statement in hub.permissions["Statement"]] == ["Mint", "Look", "EndEarly"]
    assert {statement["Resource"] for statement in hub.permissions["Statement"]} == {target}
    assert etl.trust["Statement"][0]["Principal"] == {"AWS": via}
    assert etl.boundary is not None
    assert etl.boundary.arn == "arn:aws:iam::210987654321:policy/etl-boundary"
    assert made.hints == ()


def test_terraform_has_every_document_whole(plan: Any, scope_map: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = printed(scope_map, capsys, form="terraform")
    documents = [
        json.loads(one.replace("$${", "${"))
        for one in re.findall(r"jsonencode\((.*?)\)$", made, re.MULTILINE | re.DOTALL)
    ]
    etl, logs = plan["roles"]
    assert documents == [
        plan["broker"]["policy"]["document"],
        *(etl["boundary"]["document"], etl["trust"], etl["policy"]["document"]),
        *(logs["trust"], logs["policy"]["document"]),
    ]
    labels = re.findall(r'^resource "(\w+)" "([A-Za-z_][A-Za-z0-9_-]*)" \{$', made, re.MULTILINE)
    assert len(set(labels)) == len(labels) == 7
    assert "permissions_boundary = aws_iam_policy.etl-boundary.arn" in made


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "say --broker-arn"),
        (["--broker-arn", f"arn:aws:sts::{ACCOUNT}:assumed-role/b/s"], "of a session it is the role's"),
        (["--broker-arn", BROKER + "; reboot"], "is no ARN of a user or a role"),
        (["--broker-arn", BROKER, "--format", "hcl"], "--format hcl is not for AWS"),
        (["--broker-arn", BROKER, "--broker-policy", "a b"], "is no name of a policy"),
        (["--diff"], "check --live looks"),
    ],
)
def test_what_cannot_be_printed_is_a_mistake_of_usage(
    argv: list[str], told: str, scope_map: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scopes", "provision", str(scope_map), *argv]) == os.EX_USAGE
    assert told in capsys.readouterr().err


def test_a_hub_that_is_a_scope_s_role_is_refused() -> None:
    scope = DeclaredScope(
        block={
            "role_arn": ETL,
            "via": LOGS,
            "any_region": True,
            "policy_arns": ["arn:aws:iam::aws:policy/ReadOnlyAccess"],
        },
        ttl=timedelta(minutes=5),
    )
    other = DeclaredScope(block={**scope.block, "role_arn": LOGS, "via": None}, ttl=scope.ttl)
    with pytest.raises(ValueError, match="is a scope's role, and assumes another one as well"):
        plan_of([scope, other], broker_arn=BROKER, broker_policy="b")
    made = plan_of([scope], broker_arn=BROKER, broker_policy="b")
    assert "what policy_arns allow is yours to add" in made.hints[0]
    assert "Nothing" in show(made, "sh")


@pytest.mark.skipif(AWS is None, reason="no aws CLI on this machine")
async def test_the_commands_make_what_check_live_finds_no_fault_in(
    moto: MotoServer, scope_map: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    key_id, key = moto.create_user("stepcred-broker", {"Effect": "Deny", "Action": "ec2:*", "Resource": "*"})
    run(moto, printed(scope_map, capsys, form="sh"), tmp_path)
    async with providing(settings_of(moto, tmp_path, (key_id, key))) as aws:
        found = await aws.check_scopes(declared(scope_map))
        assert found == []
        assert not [remark for remark in found.remarks if "may also" in remark or "lets" in remark]
        lease = order(declared(scope_map)[0])
        minted = await aws.mint(lease)
        assert isinstance(minted.credential, AwsSession)
        assert (await aws.revoke(lease.ref)).step == "DENY_WRITTEN"
    assert len(moto.client("iam").list_role_policies(RoleName="etl")["PolicyNames"]) == 2  # its own, and the deny list
    nothing_more(moto, key_id, key)


def nothing_more(moto: MotoServer, key_id: str, key: str) -> None:
    """The broker may write no other role's policies, nor anything else of IAM."""
    moto.create_role("bystander")
    iam = moto.client("iam", aws_access_key_id=key_id, aws_secret_access_key=key)
    deny = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]})
    for role in ("bystander", "logs"):
        with pytest.raises(ClientError, match="AccessDenied"):
            iam.put_role_policy(RoleName=role, PolicyName="x", PolicyDocument=deny)
    with pytest.raises(ClientError, match="AccessDenied"):
        iam.delete_role_permissions_boundary(RoleName="etl")
    with pytest.raises(ClientError, match="AccessDenied"):
        iam.update_assume_role_policy(RoleName="etl", PolicyDocument=deny)


def run(moto: MotoServer, script: str, folder: Path) -> None:
    """As an administrator would."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "AWS_ENDPOINT_URL": moto.url,
        "AWS_ACCESS_KEY_ID": moto.access_key_id,
        "AWS_SECRET_ACCESS_KEY": moto.secret_access_key,
        "AWS_DEFAULT_REGION": moto.region,
        "HOME": str(folder),
    }
    done = subprocess.run(["sh"], input=script, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def declared(scope_map: Path) -> list[DeclaredScope]:
    from broker.policy.language.load import load
    from broker.wiring import adapters, surveying

    return [surveying.declared(one) for one in load(scope_map, adapters.scope_kinds()).scopes.values()]


def order(scope: DeclaredScope) -> MintOrder:
    block = json.loads(json.dumps(scope.block).replace("{workflow}", "nightly"))
    agent = "spiffe://dev.local/workflow/nightly/step/load"
    ref = lease_of(block, datetime.now(UTC), life=timedelta(minutes=10), agent=agent)
    return order_of(ref, workflow="nightly", run="1", step="load")


@pytest.mark.skipif(AWS is None, reason="no aws CLI on this machine")
async def test_through_another_role_too(moto: MotoServer, tmp_path: Path) -> None:
    hub, far = f"arn:aws:iam::{ACCOUNT}:role/hub", f"arn:aws:iam::{ACCOUNT}:role/far"
    block = {
        "role_arn": far,
        "via": hub,
        "regions": [moto.region],
        "statements": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
        "revoke": "deny",
    }
    scope = DeclaredScope(block=block, ttl=timedelta(minutes=10), name="far")
    key_id, key = moto.create_user("far-broker", {"Effect": "Deny", "Action": "ec2:*", "Resource": "*"})
    broker = f"arn:aws:iam::{ACCOUNT}:user/far-broker"
    run(moto, show(plan_of([scope], broker_arn=broker, broker_policy="far-broker"), "sh"), tmp_path)
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    async with providing(settings_of(moto, tmp_path, (key_id, key))) as aws:
        (refused,) = await aws.check_scopes([scope])  # moto takes a session for its own ARN alone, not for its role's
        assert "though its trust policy names the broker" in refused
        document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        moto.client("iam").update_assume_role_policy(RoleName="far", PolicyDocument=document)
        assert await aws.check_scopes([scope]) == []
        lease = order(scope)
        await aws.mint(lease)
        assert (await aws.revoke(lease.ref)).step == "DENY_WRITTEN"
    iam = moto.client("iam", aws_access_key_id=key_id, aws_secret_access_key=key)
    with pytest.raises(ClientError, match="AccessDenied"):  # itself it may become the hub, and nothing else
        iam.get_role(RoleName="far")
