"""docs/aws.md: its JSON is what is compiled, and what the real daemon needs and gets from moto's STS and IAM."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from ruamel.yaml import YAML

import stepcred
from broker.__main__ import main
from broker.providers.aws.denies.policy import deny_policy, entries_in
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.compile import session_policy
from broker.providers.aws.scopes.kind import AwsScope
from broker.providers.aws.scopes.probe_calls import CALLS
from tests.e2e.world import journal
from tests.support.aws import aws_section
from tests.support.daemon import Deployment
from tests.support.moto import MotoServer, moto_server
from tests.support.pages import blocks, page

TEXT = page("aws.md")
BOUND = datetime(2026, 11, 23, 10, 5, tzinfo=UTC)
TRUST, BOUNDS, PERMISSIONS, SESSION, DENY = (json.loads(block) for block in blocks(TEXT, "json"))
SCOPES, *MORE = blocks(TEXT, "yaml")
HEAD = """
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/workflow/{workflow}/step/load", owners: [group:data]}
grants:
  nightly: {workloads: [load], workflows: [nightly-etl], scopes: [lake-write], max_step: 2h}
"""


@pytest.fixture
def moto(tmp_path: Path) -> Iterator[MotoServer]:
    """One of its own: the page's names are on it."""
    with moto_server(tmp_path) as server:
        server.create_bucket("lake")
        yield server


def provision(moto: MotoServer, permissions: dict[str, Any]) -> dict[str, str]:
    """The page's role and the broker's rights; the broker is a user here, since moto runs on no instance."""
    boundary = moto.client("iam").create_policy(PolicyName="etl-boundary", PolicyDocument=json.dumps(BOUNDS))
    key_id, key = moto.create_user("stepcred-broker", permissions["Statement"][0])
    iam = moto.client("iam")
    iam.put_user_policy(UserName="stepcred-broker", PolicyName="permissions", PolicyDocument=json.dumps(permissions))
    trust = json.dumps(TRUST).replace(":role/stepcred-broker", ":user/stepcred-broker")
    iam.create_role(RoleName="etl", AssumeRolePolicyDocument=trust, PermissionsBoundary=boundary["Policy"]["Arn"])
    iam.put_role_policy(RoleName="etl", PolicyName="permissions", PolicyDocument=json.dumps(BOUNDS))
    return {"key_id": key_id, "key": key}


def deployment(moto: MotoServer, folder: Path, key: dict[str, str]) -> Deployment:
    aws = aws_section(moto.url, folder, (key["key_id"], key["key"]))
    return Deployment(folder / "daemon", HEAD + SCOPES, aws=aws, timings={"drain_grace": "1s"})


def issue(made: Deployment) -> None:
    """The daemon's whole life: one step, and a session for it. Raises what the step is refused with."""
    agent = made.agent("workflow/nightly-etl/step/load")
    with (
        made.daemon(),
        stepcred.connect(made.addr, str(agent.cert), str(agent.key), str(agent.ca)) as broker,
        broker.step(workflow="nightly-etl", run="1", step="load", scopes=["lake-write"]) as step,
    ):
        step.issue("lake-write", retry=0)


def put(moto: MotoServer, session: stepcred.AwsSession) -> None:
    s3 = moto.client(
        "s3",
        aws_access_key_id=session.access_key_id,
        aws_secret_access_key=session.secret_access_key,
        aws_session_token=session.session_token,
    )
    s3.put_object(Bucket="lake", Key="nightly-etl/part", Body=b"1")


def test_what_the_page_says_is_printed_for_its_scope(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scopes.yaml").write_text(HEAD + SCOPES)
    (command,) = blocks(TEXT, "sh")
    program, *argv = shlex.split(command.replace("scopes.yaml", str(tmp_path / "scopes.yaml")))
    assert program == "stepcred-broker"
    assert main([*argv, "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    (role,) = printed["roles"]
    assert role["trust"] == TRUST
    assert role["boundary"]["name"] == "etl-boundary"
    assert role["boundary"]["document"] == role["policy"]["document"] == BOUNDS
    assert printed["broker"]["policy"]["document"] == PERMISSIONS
    assert printed["hints"] == []
    assert main(argv) == 0
    assert json.dumps(TRUST, separators=(",", ":")) in capsys.readouterr().out


def test_the_session_policy_of_the_page_is_what_its_scope_compiles_to() -> None:
    block = YAML(typ="safe").load(SCOPES.replace("{workflow}", "nightly-etl"))["scopes"]["lake-write"]["aws"]
    assert json.loads(session_policy(AwsBlock.model_validate(block), BOUND)) == SESSION


@pytest.mark.parametrize("text", MORE)
def test_the_other_scopes_of_the_page_load(text: str) -> None:
    for scope in YAML(typ="safe").load(text)["scopes"].values():
        assert list(AwsScope().validate(scope["aws"])) == []


def test_the_calls_that_the_page_names_are_those_that_may_probe() -> None:
    (told,) = re.findall(r"\*\*Which calls\*\*: ([^.]*)\.", TEXT)
    assert set(told.replace("\n", " ").replace(",", "").split()) == CALLS.keys()


def test_the_page_s_table_has_every_key_of_a_scope() -> None:
    table = TEXT[TEXT.index("### The keys of a scope") : TEXT.index("The session's name is the lease's id, always")]
    told = {key for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert told | {"any_region"} == AwsBlock.model_fields.keys()


def test_the_deny_list_of_the_page_is_what_is_written() -> None:
    (who,) = DENY["Statement"][0]["Condition"]["StringLike"]["aws:userid"]
    assert json.loads(deny_policy({who.removeprefix("*:"): BOUND})) == DENY
    assert f"**{entries_in(10_240)} entries**" in TEXT


def test_the_rights_of_the_page_are_enough_to_mint_and_to_deny(moto: MotoServer, tmp_path: Path) -> None:
    made = deployment(moto, tmp_path, provision(moto, PERMISSIONS))
    agent = made.agent("workflow/nightly-etl/step/load")
    with made.daemon(), stepcred.connect(made.addr, str(agent.cert), str(agent.key), str(agent.ca)) as broker:
        with broker.step(workflow="nightly-etl", run="1", step="load", scopes=["lake-write"], wait=2.0) as step:
            session = step.issue("lake-write")
            assert isinstance(session, stepcred.AwsSession)
            put(moto, session)
        assert not step.all_proven
        assert "exposed until" in step.summary()
        with pytest.raises(ClientError, match="AccessDenied"):
            put(moto, session)
    (progress,) = {record["reason"] for record in journal(made, "LEASE_PROGRESS")}
    assert progress == "DENY_WRITTEN"


LOOK = PERMISSIONS["Statement"][1]


@pytest.mark.parametrize("action", LOOK["Action"])
def test_without_a_look_at_the_role_nothing_is_minted(action: str, moto: MotoServer, tmp_path: Path) -> None:
    made = deployment(moto, tmp_path, provision(moto, without(action)))
    with pytest.raises(stepcred.ProviderFailed):
        issue(made)
    (void, *_) = journal(made, "LEASE_VOID")
    assert f"IAM refused {action.removeprefix('iam:')}: AccessDenied" in void["data"]["problem"]


def test_without_the_right_to_write_nothing_more_than_the_bound_is_promised(moto: MotoServer, tmp_path: Path) -> None:
    made = deployment(moto, tmp_path, provision(moto, without("iam:PutRolePolicy")))
    issue(made)
    (intent,) = journal(made, "LEASE_INTENT")
    assert intent["data"]["revocability"] == "EXPIRY_ONLY"
    assert "sessions of a role cannot be ended early" in made.log.read_text()


def without(action: str) -> dict[str, Any]:
    less: dict[str, Any] = json.loads(json.dumps(PERMISSIONS))
    for statement in less["Statement"][1:]:
        if action in statement["Action"]:
            statement["Action"].remove(action)
    return less


def test_a_role_that_does_not_trust_the_broker_is_told_in_log_and_journal(moto: MotoServer, tmp_path: Path) -> None:
    key = provision(moto, PERMISSIONS)
    nobody = json.dumps(TRUST).replace(":role/stepcred-broker", ":user/somebody")
    moto.client("iam").update_assume_role_policy(RoleName="etl", PolicyDocument=nobody)
    made = deployment(moto, tmp_path, key)
    with pytest.raises(stepcred.ProviderFailed):
        issue(made)
    assert "AWS refused AssumeRole: the role does not exist, or its trust policy" in made.log.read_text()
    (void,) = journal(made, "LEASE_VOID")
    assert "trust policy" in void["data"]["problem"]
