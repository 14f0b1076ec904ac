"""Stored values of AWS: Secrets Manager and SSM by moto, and a step that gets one through the daemon.

Moto knows no session policies; that the session may read just this is in the golden policies.
"""

from __future__ import annotations

import json
import socket
import traceback
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import stepcred
from broker.model import Evidence, KeyValue, Revocability
from broker.providers.aws.provider import AwsProvider
from broker.providers.aws.scopes.kind import AwsScope
from broker.providers.base import DeclaredScope, Minted, MintInDoubt, MintOrder, MintRefused, Sweep, Swept
from tests.e2e.world import journal
from tests.support.aws import aws_section
from tests.support.aws_orders import lease_of, order_of, providing, settings_of
from tests.support.daemon import Deployment
from tests.support.moto import MotoServer, moto_server

VALUE = "correct-horse-battery"
READS = {"Effect": "Allow", "Action": ["secretsmanager:GetSecretValue", "ssm:GetParameter"], "Resource": "*"}


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="module")
def role(moto: MotoServer) -> str:
    return moto.create_role("reader", permissions=READS)


@pytest.fixture
async def aws(moto: MotoServer, tmp_path: Path) -> AsyncIterator[AwsProvider]:
    async with providing(settings_of(moto, tmp_path), epoch=3) as provider:
        yield provider


def order(role: str, **stored: Any) -> MintOrder:
    params = {"role_arn": role, "regions": ["eu-west-1"], **stored}
    ref = lease_of(
        params, datetime.now(UTC), life=timedelta(hours=1), revocability=AwsScope().revocability(params), epoch=3
    )
    assert AwsScope().validate(ref.params) == []
    assert ref.revocability is Revocability.STATIC
    return order_of(ref)


def changed(ask: MintOrder, *, age: timedelta = timedelta(0), **params: Any) -> MintOrder:
    ref = ask.ref
    return replace(ask, ref=replace(ref, params={**ref.params, **params}, intent_at=ref.intent_at - age))


def put_secret(moto: MotoServer, name: str, **value: Any) -> tuple[str, str]:
    """ARN and version id."""
    made = moto.client("secretsmanager").create_secret(Name=name, **value)
    return made["ARN"], made["VersionId"]


def values(minted: Minted) -> Mapping[str, str]:
    assert isinstance(minted.credential, KeyValue)
    return {key: value.reveal() for key, value in minted.credential.data.items()}


def version_of(minted: Minted) -> str | int:
    assert isinstance(minted.credential, KeyValue)
    return minted.credential.version_id or minted.credential.version


async def test_a_secret_is_handed_out_with_the_version_that_was_read(
    moto: MotoServer, aws: AwsProvider, role: str
) -> None:
    arn, version = put_secret(moto, "etl/db", SecretString=json.dumps({"username": "etl", "password": VALUE}))
    minted = await aws.mint(order(role, secret={"id": arn}))
    assert (values(minted), version_of(minted)) == ({"username": "etl", "password": VALUE}, version)
    assert minted.refs == {"secret": arn, "version_id": version}
    assert minted.provider_request_id
    assert VALUE not in repr(minted)


async def test_a_stage_is_looked_up_at_each_mint_and_a_version_id_stays(
    moto: MotoServer, aws: AwsProvider, role: str
) -> None:
    arn, first = put_secret(moto, "etl/rotated", SecretString="old")
    second = moto.client("secretsmanager").put_secret_value(SecretId=arn, SecretString="new")["VersionId"]
    current = await aws.mint(order(role, secret={"id": arn}))
    previous = await aws.mint(order(role, secret={"id": arn, "stage": "AWSPREVIOUS"}))
    pinned = await aws.mint(order(role, secret={"id": arn, "version_id": first}))
    assert [(values(one)["value"], version_of(one)) for one in (current, previous, pinned)] == [
        ("new", second),
        ("old", first),
        ("old", first),
    ]


async def test_a_parameter_is_decrypted_and_its_version_pinned(moto: MotoServer, aws: AwsProvider, role: str) -> None:
    ssm = moto.client("ssm")
    for text in ("old", VALUE):
        ssm.put_parameter(Name="/etl/db/password", Value=text, Type="SecureString", Overwrite=True)
    latest = await aws.mint(order(role, parameter={"name": "/etl/db/password"}))
    pinned = await aws.mint(order(role, parameter={"name": "/etl/db/password", "version": 1}))
    assert [(values(one), version_of(one)) for one in (latest, pinned)] == [
        ({"value": VALUE}, 2),
        ({"value": "old"}, 1),
    ]
    assert pinned.refs == {"parameter": "/etl/db/password", "version": 1}


async def test_a_parameter_can_be_named_by_its_arn(moto: MotoServer, aws: AwsProvider, role: str) -> None:
    moto.client("ssm").put_parameter(Name="/etl/arn", Value=VALUE, Type="String")
    arn = f"arn:aws:ssm:eu-west-1:{moto.account}:parameter/etl/arn"
    minted = await aws.mint(order(role, parameter={"name": arn}))
    assert (values(minted), minted.refs) == ({"value": VALUE}, {"parameter": arn, "version": 1})


async def test_what_cannot_be_read_is_refused_in_constant_words(moto: MotoServer, aws: AwsProvider, role: str) -> None:
    arn, _ = put_secret(moto, "etl/deleted", SecretString=VALUE)
    moto.client("secretsmanager").delete_secret(SecretId=arn)
    elsewhere = f"arn:aws:secretsmanager:eu-west-1:{moto.account}:secret:nobody-AbCdEf"
    for ask, said in [
        (order(role, secret={"id": arn}), "marked for deletion"),
        (order(role, secret={"id": elsewhere}), "no such secret"),
        (order(role, parameter={"name": "/etl/nobody"}), "no such parameter"),
    ]:
        with pytest.raises(MintRefused, match=said) as refusal:
            await aws.mint(ask)
        told = "".join(traceback.format_exception(refusal.value))
        assert arn not in told


async def test_a_store_that_does_not_answer_leaves_a_doubt_that_closes(
    moto: MotoServer, tmp_path: Path, role: str
) -> None:
    """STS answers and the store does not: nobody has the value, nor will have."""
    ask = order(role, secret={"id": f"arn:aws:secretsmanager:eu-west-1:{moto.account}:secret:x-AbCdEf"})
    later = changed(ask, age=timedelta(minutes=3)).ref
    async with providing(settings_of(moto, tmp_path, read_timeout=timedelta(seconds=0.3)), epoch=3) as aws:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            hung = changed(ask, endpoint_url=f"http://127.0.0.1:{mute.getsockname()[1]}", sts_endpoint=moto.url)
            with pytest.raises(MintInDoubt, match="the read gave no definite answer"):
                await aws.mint(hung)
        with pytest.raises(MintRefused, match="the read was not sent"):
            await aws.mint(hung)
        assert (await aws.settle(ask.ref, final=True)).evidence is None  # its session may live
        assert (await aws.settle(later, final=True)).evidence is Evidence.NOT_MINTED


async def test_the_end_of_a_stored_value_is_the_end_of_access_and_touches_no_role(
    moto: MotoServer, aws: AwsProvider, role: str
) -> None:
    arn, _ = put_secret(moto, "etl/ended", SecretString=VALUE)
    ask = order(role, secret={"id": arn})
    await aws.mint(ask)
    assert (await aws.revoke(ask.ref)).evidence is Evidence.ACCESS_ENDED
    assert moto.client("iam").list_role_policies(RoleName="reader")["PolicyNames"] == ["permissions"]


async def test_after_lost_state_its_role_is_left_alone(aws: AwsProvider, role: str) -> None:
    params = order(role, parameter={"name": "/etl/any"}).ref.params
    scope = DeclaredScope(block=params, ttl=timedelta(hours=1))
    swept = await aws.recover(Sweep(since=datetime.now(UTC), scopes=(scope,), leases=frozenset(), children=frozenset()))
    assert swept == Swept()


SCOPES = """
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {{id: "spiffe://dev.local/step/load", owners: [group:data]}}
scopes:
  database:
    aws: {{role_arn: "{role}", secret: {{id: "{arn}"}}}}
    ttl: 8h
    tier: low
  parameter:
    aws: {{role_arn: "{role}", regions: eu-west-1, parameter: {{name: "/nightly/key", version: 1}}}}
    ttl: 1h
    tier: low
grants:
  all: {{workloads: [load], workflows: [nightly], scopes: [database, parameter], max_step: 8h}}
"""


def test_a_step_gets_a_stored_value_and_the_journal_which_version_it_was(
    moto: MotoServer, role: str, tmp_path: Path
) -> None:
    arn, version = put_secret(moto, "nightly/db", SecretString=json.dumps({"password": VALUE}))
    moto.client("ssm").put_parameter(Name="/nightly/key", Value=VALUE, Type="SecureString")
    made = Deployment(
        tmp_path / "daemon", SCOPES.format(role=role, arn=arn), aws=aws_section(moto.url, tmp_path, moto.key)
    )
    agent = made.agent("step/load")
    with made.daemon(), stepcred.connect(made.addr, str(agent.cert), str(agent.key), str(agent.ca)) as broker:
        with broker.step(workflow="nightly", run="1", step="load", scopes=["database", "parameter"], wait=5.0) as step:
            database, parameter = step.issue("database"), step.issue("parameter")
            assert isinstance(database, stepcred.KeyValue)
            assert isinstance(parameter, stepcred.KeyValue)
            assert (database.data["password"], database.version_id) == (VALUE, version)
            assert (parameter.data["value"], parameter.version) == (VALUE, 1)
        assert {outcome.evidence for outcome in step.outcomes} == {stepcred.Evidence.ACCESS_ENDED}
    refs = [record["data"]["refs"] for record in journal(made, "LEASE_ACTIVE")]
    assert sorted(refs, key=str) == [
        {"parameter": "/nightly/key", "version": 1},
        {"secret": arn, "version_id": version},
    ]
    written = [made.log, *made.database.parent.glob("broker.db*")]
    assert not any(VALUE.encode() in one.read_bytes() for one in written)
