"""The AWS provider against moto (call shapes, errors, denies) and against an STS that misbehaves."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from broker.clock import SystemClock
from broker.model import AwsSession
from broker.providers.aws.provider import AwsProvider
from broker.providers.aws.settings import AwsSettings
from broker.providers.base import (
    Contact,
    KnowsTime,
    MintInDoubt,
    MintOrder,
    MintRefused,
    Provider,
    ProviderError,
    SettlesDoubt,
)
from tests.support.aws import key_file
from tests.support.aws_orders import LEASE, lease_of, order_of, providing, settings_at, settings_of
from tests.support.moto import MotoServer, moto_server
from tests.support.processes import free_port
from tests.support.sts import error, told_sts

KEY = "throwAwaySecretKeyOfTheBroker"


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        server.create_bucket("lake")
        yield server


def settings(url: str, folder: Path, **changes: Any) -> AwsSettings:
    return settings_at(url, access_key_id="AKIAEXAMPLE", secret_access_key_file=key_file(folder, KEY), **changes)


@pytest.fixture
async def aws(moto: MotoServer, tmp_path: Path) -> AsyncIterator[AwsProvider]:
    async with providing(settings_of(moto, tmp_path), epoch=3) as provider:
        yield provider


def order(role_arn: str, *, seconds: float = 300, **changes: Any) -> MintOrder:
    params = {
        "role_arn": role_arn,
        "regions": ["eu-west-1"],
        "statements": [{"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::lake/*"}],
        "revoke": "bound",
        **changes,
    }
    return order_of(lease_of(params, datetime.now(UTC), life=timedelta(seconds=seconds), epoch=3))


def put(moto: MotoServer, session: AwsSession, key: str) -> None:
    s3 = moto.client(
        "s3",
        aws_access_key_id=session.access_key_id,
        aws_secret_access_key=session.secret_access_key.reveal(),
        aws_session_token=session.session_token.reveal(),
    )
    s3.put_object(Bucket="lake", Key=key, Body=b"1")


# --- moto ---


async def test_a_session_works_until_the_deny_on_its_role(moto: MotoServer, aws: AwsProvider) -> None:
    ask = order(moto.create_role("step-one"), revoke="deny")
    minted = await aws.mint(ask)
    assert isinstance(minted.credential, AwsSession)
    put(moto, minted.credential, "alive")

    progress = await aws.revoke(ask.ref)

    assert (progress.evidence, progress.step) == (None, "DENY_WRITTEN")
    assert str(progress.refs["deny_policy"]).startswith("stepcred-deny-0123abcd-3-")
    with pytest.raises(ClientError, match="AccessDenied"):
        put(moto, minted.credential, "dead")
    assert await aws.probe(ask.ref) is None


async def test_what_is_minted_says_where_and_until_when(moto: MotoServer, aws: AwsProvider) -> None:
    minted = await aws.mint(order(moto.create_role("step-two")))
    session = minted.credential
    assert isinstance(session, AwsSession)
    assert (session.region, session.endpoint_url) == ("eu-west-1", moto.url)
    left = (session.session_expires_at - datetime.now(UTC)).total_seconds()
    assert 890 < left <= 900
    assert minted.provider_request_id
    assert set(minted.refs) == {"session_expires_at", "issued_at"}
    assert session.secret_access_key.reveal() not in repr(minted)


async def test_a_session_never_seen_is_denied_by_its_name(moto: MotoServer, aws: AwsProvider) -> None:
    ask = order(moto.create_role("step-three"), revoke="deny")
    settled = await aws.settle(ask.ref, final=True)
    assert (settled.found, settled.evidence) == (False, None)
    iam = moto.client("iam")
    policy = iam.get_role_policy(RoleName="step-three", PolicyName=settled.refs["deny_policy"])["PolicyDocument"]
    assert policy["Statement"][0]["Condition"] == {"StringLike": {"aws:userid": [f"*:{LEASE}"]}}


async def test_a_scope_that_waits_for_its_bound_is_not_denied(moto: MotoServer, aws: AwsProvider) -> None:
    ask = order(moto.create_role("step-four"))
    await aws.mint(ask)
    assert (await aws.revoke(ask.ref)).step == "WAITING_FOR_BOUND"
    assert (await aws.settle(ask.ref, final=False)).refs == {}
    assert moto.client("iam").list_role_policies(RoleName="step-four")["PolicyNames"] == ["permissions"]


async def test_a_role_that_does_not_trust_the_broker_is_a_definite_refusal(moto: MotoServer, tmp_path: Path) -> None:
    key_id, key = moto.create_user("stranger", {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"})
    trust = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{moto.account}:user/somebody"},
        "Action": "sts:AssumeRole",
    }
    role = moto.create_role("distant", trust)
    async with providing(settings_of(moto, tmp_path, (key_id, key))) as provider:
        with pytest.raises(MintRefused, match="trust policy"):
            await provider.mint(order(role))


@pytest.mark.parametrize(("key_id", "text"), [("AKIANOBODY", "access key is unknown"), ("", "secret key is wrong")])
async def test_wrong_keys_of_the_broker_are_definite_and_told_by_check(
    moto: MotoServer, tmp_path: Path, key_id: str, text: str
) -> None:
    async with providing(settings_of(moto, tmp_path, (key_id or moto.access_key_id, "wrong"))) as provider:
        with pytest.raises(MintRefused, match=text):
            await provider.mint(order("arn:aws:iam::123456789012:role/any"))
        (problem,) = await provider.check()
        assert "check the access key and its secret" in problem


async def test_check_has_no_complaint_when_sts_knows_the_broker(aws: AwsProvider) -> None:
    assert await aws.check() == []


async def test_revoking_on_a_role_that_is_gone_is_an_error_and_proves_nothing(aws: AwsProvider) -> None:
    with pytest.raises(ProviderError, match="NoSuchEntity"):
        await aws.revoke(order("arn:aws:iam::123456789012:role/gone", revoke="deny").ref)


async def test_neither_logs_nor_reprs_hold_the_session_even_at_debug(
    moto: MotoServer, aws: AwsProvider, caplog: pytest.LogCaptureFixture
) -> None:
    role = moto.create_role("step-five")
    caplog.set_level(logging.DEBUG)
    session = (await aws.mint(order(role))).credential
    assert isinstance(session, AwsSession)
    assert session.session_token.reveal() not in caplog.text
    assert session.secret_access_key.reveal() not in caplog.text

    # The same call with the SDK's loggers let loose: this is what the pinning is for.
    botocore = logging.getLogger("botocore")
    before = botocore.level
    botocore.setLevel(logging.DEBUG)
    try:
        leaked = moto.client("sts").assume_role(RoleArn=role, RoleSessionName=LEASE)["Credentials"]
    finally:
        botocore.setLevel(before)
    assert leaked["SecretAccessKey"] in caplog.text


def test_it_is_what_the_engine_takes_it_for() -> None:
    provider: Provider = AwsProvider(settings_at("http://127.0.0.1:1"), SystemClock(), epoch=lambda: 3)
    assert isinstance(provider, SettlesDoubt)


# --- an STS that misbehaves ---


async def mint_at(url: str, tmp_path: Path, **changes: Any) -> None:
    async with providing(settings(url, tmp_path, **changes)) as provider:
        await provider.mint(order("arn:aws:iam::123456789012:role/etl"))


WHOLE = "<AssumeRoleResponse><AssumeRoleResult><Credentials>{}</Credentials></AssumeRoleResult></AssumeRoleResponse>"


@pytest.mark.parametrize(
    "answer",
    [
        None,
        (500, error("InternalFailure", f"token {KEY}")),
        (503, error("ServiceUnavailable", f"token {KEY}")),
        (503, error("SlowDown", f"token {KEY}")),
        (503, error("Throttling", f"token {KEY}")),
        (429, "slow down"),
        (403, "<html>a proxy's own page</html>"),
        (403, error("ValidationError", f"token {KEY}")),
        (500, error("AccessDenied", f"token {KEY}")),
        (200, ""),
        (200, "not xml at all"),
        (200, WHOLE.format(f"<AccessKeyId>A</AccessKeyId><SecretAccessKey>{KEY}</SecretAccessKey>")),
        (200, WHOLE.format(f"<SecretAccessKey>{KEY}</SecretAccessKey><Expiration>soon</Expiration>")),
    ],
)
async def test_whatever_is_not_definite_is_in_doubt_after_one_single_request(
    answer: tuple[int, str] | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with told_sts(answer) as sts:
        with pytest.raises(MintInDoubt) as doubt:
            await mint_at(sts.url, tmp_path)
        assert len(sts.requests) == 1
    told = "".join(traceback.format_exception(doubt.value)) + caplog.text
    assert KEY not in told
    assert (doubt.value.__context__, doubt.value.__cause__) == (None, None)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "Throttling"),
        (400, "ThrottlingException"),
        (400, "RequestLimitExceeded"),
        (429, "TooManyRequestsException"),
        (429, "SlowDown"),
    ],
)
async def test_a_throttle_means_that_nothing_was_minted_and_counts_for_the_breaker(
    status: int, code: str, tmp_path: Path
) -> None:
    with told_sts((status, error(code))) as sts:
        with pytest.raises(MintRefused, match="too many calls") as refusal:
            await mint_at(sts.url, tmp_path)
        assert refusal.value.contact is Contact.FAILED
        assert len(sts.requests) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "AccessDenied"),
        (400, "ValidationError"),
        (400, "MalformedPolicyDocument"),
        (400, "PackedPolicyTooLarge"),
        (403, "RegionDisabledException"),
        (403, "InvalidClientTokenId"),
        (403, "SignatureDoesNotMatch"),
        (403, "ExpiredToken"),
    ],
)
async def test_the_allow_list_of_definite_refusals(status: int, code: str, tmp_path: Path) -> None:
    with told_sts((status, error(code))) as sts:
        with pytest.raises(MintRefused) as refusal:
            await mint_at(sts.url, tmp_path)
        assert len(sts.requests) == 1
    assert KEY not in str(refusal.value)


async def test_an_answer_that_never_comes_is_in_doubt_after_one_request(tmp_path: Path) -> None:
    with told_sts(None, held=True) as sts:
        with pytest.raises(MintInDoubt):
            await mint_at(sts.url, tmp_path, read_timeout=timedelta(milliseconds=300))
        assert len(sts.requests) == 1


async def test_a_call_that_finds_no_free_worker_was_never_sent(tmp_path: Path) -> None:
    one_worker = {"mint_workers": 1, "connect_timeout": timedelta(milliseconds=200)}
    with told_sts(None, held=True) as sts:
        async with providing(settings(sts.url, tmp_path, **one_worker)) as provider:
            stuck = asyncio.create_task(provider.mint(order("arn:aws:iam::123456789012:role/etl")))
            await asyncio.sleep(0)
            with pytest.raises(MintRefused, match="no free worker"):
                await provider.mint(order("arn:aws:iam::123456789012:role/etl"))
            sts.go.set()
            with pytest.raises(MintInDoubt):
                await stuck
        assert len(sts.requests) == 1


async def test_no_connection_means_nothing_was_minted(tmp_path: Path) -> None:
    with pytest.raises(MintRefused, match="not sent"):
        await mint_at(f"http://127.0.0.1:{free_port()}", tmp_path)


async def test_an_unreadable_key_file_means_nothing_was_minted(tmp_path: Path) -> None:
    unread = {"access_key_id": "AKIAEXAMPLE", "secret_access_key_file": tmp_path / "none"}
    async with providing(settings_at("http://127.0.0.1:1", **unread)) as provider:
        with pytest.raises(MintRefused, match="not sent"):
            await provider.mint(order("arn:aws:iam::123456789012:role/etl"))


async def test_the_shape_of_the_one_request(tmp_path: Path) -> None:
    with told_sts((500, "")) as sts:
        async with providing(settings(sts.url, tmp_path)) as provider:
            for seconds in (61, 1000.2, 100_000):
                with pytest.raises(MintInDoubt):
                    await provider.mint(
                        order("arn:aws:iam::123456789012:role/etl", seconds=seconds, external_id="acme-prod")
                    )
    first = sts.requests[0]
    assert first["Action"] == "AssumeRole"
    assert (first["RoleArn"], first["RoleSessionName"], first["ExternalId"]) == (
        "arn:aws:iam::123456789012:role/etl",
        LEASE,
        "acme-prod",
    )
    assert json.loads(first["Policy"])["Statement"][-1]["Condition"]["DateGreaterThan"]
    durations = [int(each["DurationSeconds"]) for each in sts.requests]
    assert durations[0] == 900
    assert 990 < durations[1] <= 1001
    assert durations[2] == 43_200


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": -1},
        {"regions": []},
        {
            "statements": [
                {"Effect": "Allow", "Action": "s3:*", "Resource": [f"arn:aws:s3:::{n:080}" for n in range(30)]}
            ]
        },
    ],
)
async def test_an_order_that_cannot_be_sent_is_a_definite_refusal(changes: dict[str, Any], tmp_path: Path) -> None:
    with told_sts((500, "")) as sts:
        async with providing(settings(sts.url, tmp_path)) as provider:
            with pytest.raises(MintRefused):
                await provider.mint(order("arn:aws:iam::123456789012:role/etl", **changes))
        assert sts.requests == []


async def test_a_hung_sts_delays_no_deny(moto: MotoServer, tmp_path: Path) -> None:
    role = moto.create_role("step-six")
    with told_sts(None, held=True) as sts:
        given = settings_of(moto, tmp_path, endpoint_url=sts.url, iam_endpoint_url=moto.url, mint_workers=1)
        async with providing(given, epoch=3) as provider:
            stuck = asyncio.create_task(provider.mint(order(role, revoke="deny")))
            assert (await provider.revoke(order(role, revoke="deny").ref)).step == "DENY_WRITTEN"
            assert not stuck.done()
            sts.go.set()
            with pytest.raises(MintInDoubt):
                await stuck


async def test_the_time_of_the_last_answer_is_heard(aws: AwsProvider) -> None:
    assert isinstance(aws, KnowsTime)
    await aws.check()
    heard = aws.time_heard()
    assert heard is not None
    assert abs(heard - SystemClock().now()) < timedelta(seconds=30)
