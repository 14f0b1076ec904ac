"""Stored values: what is asked, what is handed out, and what becomes of a mint that failed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model import AwsSession, Evidence, JsonValue, KeyValue, Revocability
from broker.providers.aws.calls import Failure
from broker.providers.aws.denies.iam import told
from broker.providers.aws.lanes import BUSY
from broker.providers.aws.scopes.block import AwsBlock, block_of
from broker.providers.aws.static import MAX_BYTES, Static
from broker.providers.base import Minted, MintInDoubt, MintOrder, MintRefused
from broker.secret import Secret
from tests.fakes.clock import START, FakeClock
from tests.support.aws_orders import lease_of, order_of

SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:etl/db-AbCdEf"
PARAMETER = "/etl/db/password"
VERSION_ID = "0f7c1f3e-93a1-4b9a-8a4c-5a2f1f0e9b11"
SESSION_SECRET = "never-handed-out"


def block(**stored: Any) -> AwsBlock:
    made = block_of({"role_arn": "arn:aws:iam::123456789012:role/reader", "regions": ["eu-west-1"], **stored})
    assert made is not None
    return made


def of_secret(**which: Any) -> AwsBlock:
    return block(secret={"id": SECRET, **which})


def of_parameter(**which: Any) -> AwsBlock:
    return block(parameter={"name": PARAMETER, **which})


def order(life: timedelta = timedelta(hours=8)) -> MintOrder:
    return order_of(lease_of({}, START, life=life, revocability=Revocability.STATIC))


class Aws:
    """STS and the stores: says what the test wants, remembers what was asked."""

    def __init__(self, answer: Mapping[str, Any] | Failure) -> None:
        self.answer = answer
        self.bounds: list[datetime] = []
        self.asked: list[tuple[str, str, Mapping[str, JsonValue], str]] = []
        self.clock = FakeClock()
        self.heard: datetime | None = None
        self.static = Static(self.assume, self.read, self.clock, lambda: self.heard, limit=timedelta(seconds=9))

    async def assume(self, ask: MintOrder, _: AwsBlock) -> Minted:
        self.bounds.append(ask.ref.expires_at)
        session = AwsSession(
            access_key_id="ASIAEXAMPLE",
            secret_access_key=Secret(SESSION_SECRET),
            session_token=Secret(SESSION_SECRET),
            region="eu-west-1",
            endpoint_url="",
            session_expires_at=START + timedelta(minutes=15),
        )
        return Minted(credential=session, refs={"session_expires_at": "…"})

    async def read(
        self, session: AwsSession, service: str, operation: str, parameters: Mapping[str, JsonValue], *, region: str
    ) -> Mapping[str, JsonValue] | Failure:
        self.asked.append((service, operation, parameters, region))
        return self.answer


def secret_answer(**changes: Any) -> dict[str, Any]:
    return {"ARN": SECRET, "VersionId": VERSION_ID, "VersionStages": ["AWSCURRENT"], **changes}


def parameter_answer(**changes: Any) -> dict[str, Any]:
    return {"Parameter": {"Name": PARAMETER, "Value": "pw", "Version": 4, "Type": "SecureString", **changes}}


def shown(minted: Minted) -> dict[str, str]:
    assert isinstance(minted.credential, KeyValue)
    return {key: value.reveal() for key, value in minted.credential.data.items()}


async def got(made: AwsBlock, answer: Mapping[str, Any]) -> dict[str, str]:
    return shown(await Aws(answer).static.mint(order(), made))


@pytest.mark.parametrize(
    ("made", "question"),
    [
        (of_secret(), ("secretsmanager", "get_secret_value", {"SecretId": SECRET, "VersionStage": "AWSCURRENT"})),
        (
            of_secret(stage="AWSPREVIOUS"),
            ("secretsmanager", "get_secret_value", {"SecretId": SECRET, "VersionStage": "AWSPREVIOUS"}),
        ),
        (
            of_secret(version_id=VERSION_ID),
            ("secretsmanager", "get_secret_value", {"SecretId": SECRET, "VersionId": VERSION_ID}),
        ),
    ],
)
async def test_the_version_that_the_scope_says_is_asked_for(made: AwsBlock, question: tuple[Any, ...]) -> None:
    aws = Aws(secret_answer(SecretString="pw"))
    minted = await aws.static.mint(order(), made)
    assert aws.asked == [(*question, "eu-west-1")]
    assert isinstance(minted.credential, KeyValue)
    assert (minted.credential.version_id, minted.credential.version) == (VERSION_ID, 0)
    assert minted.refs == {"secret": SECRET, "version_id": VERSION_ID}


@pytest.mark.parametrize(("version", "name"), [(None, PARAMETER), (4, f"{PARAMETER}:4")])
async def test_a_parameter_is_read_decrypted_by_name_and_version(version: int | None, name: str) -> None:
    aws = Aws(parameter_answer())
    minted = await aws.static.mint(order(), of_parameter(version=version) if version else of_parameter())
    assert aws.asked == [("ssm", "get_parameter", {"Name": name, "WithDecryption": True}, "eu-west-1")]
    assert minted.refs == {"parameter": PARAMETER, "version": 4}
    assert isinstance(minted.credential, KeyValue)
    assert (minted.credential.version, shown(minted)) == (4, {"value": "pw"})


async def test_the_session_is_dead_in_a_minute_whatever_the_leases_life() -> None:
    aws = Aws(secret_answer(SecretString="pw"))
    await aws.static.mint(order(timedelta(hours=8)), of_secret())
    aws.heard = START + timedelta(seconds=40)  # AWS's clock is ahead: by ours it would be dead on arrival
    await aws.static.mint(order(timedelta(hours=8)), of_secret())
    aws.heard = START - timedelta(seconds=40)
    await aws.static.mint(order(timedelta(hours=8)), of_secret())
    assert [(bound - START).total_seconds() for bound in aws.bounds] == [60, 100, 60]


async def test_the_session_is_in_nothing_that_is_handed_out_or_recorded() -> None:
    minted = await Aws(secret_answer(SecretString='{"user": "etl"}')).static.mint(order(), of_secret())
    assert SESSION_SECRET not in repr(minted) + str(shown(minted))
    assert "ASIAEXAMPLE" not in repr(minted) + str(shown(minted))


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ('{"username": "etl", "port": 5432, "tls": true}', {"username": "etl", "port": "5432", "tls": "true"}),
        ('{"hosts": ["a", "b"]}', {"hosts": '["a", "b"]'}),
        ("just text", {"value": "just text"}),
        ('"quoted"', {"value": '"quoted"'}),
        ("[1, 2]", {"value": "[1, 2]"}),
        ("{}", {"value": "{}"}),
        ('{"half": ', {"value": '{"half": '}),
        ('{"half": "\\ud800"}', {"value": '{"half": "\\ud800"}'}),
        ("[" * 5000, {"value": "[" * 5000}),
        ("", {"value": ""}),
    ],
)
async def test_an_object_has_its_keys_and_anything_else_is_one_value(text: str, data: dict[str, str]) -> None:
    assert await got(of_secret(), secret_answer(SecretString=text)) == data


async def test_bytes_are_told_by_another_key() -> None:
    assert await got(of_secret(), secret_answer(SecretBinary=b"\x00\xff")) == {"value_base64": "AP8="}


@given(st.dictionaries(st.text(max_size=20), st.one_of(st.text(max_size=20), st.integers(), st.booleans())))
async def test_whatever_an_object_holds_can_be_sent(held: dict[str, Any]) -> None:
    data = await got(of_secret(), secret_answer(SecretString=json.dumps(held)))
    assert all(key.encode() is not None and value.encode() is not None for key, value in data.items())
    if held:
        assert data.keys() == held.keys()


@pytest.mark.parametrize(
    ("made", "answer", "said"),
    [
        (of_secret(), secret_answer(SecretString="x", ARN=SECRET.replace("AbCdEf", "XXXXXX")), "another secret"),
        (of_secret(), secret_answer(SecretString="x", VersionId=None), "another secret"),
        (of_secret(version_id="1" * 32), secret_answer(SecretString="x"), "another version"),
        (of_secret(), secret_answer(), "holds no value"),
        (of_secret(), secret_answer(SecretString="x" * (MAX_BYTES + 1)), "larger than AWS stores"),
        (of_secret(), secret_answer(SecretString="\ud800"), "UTF-8"),
        (of_parameter(), parameter_answer(Name="/etl/other"), "another parameter"),
        (of_parameter(version=3), parameter_answer(), "another version"),
        (of_parameter(), parameter_answer(Version=None), "which version"),
        (of_parameter(), parameter_answer(Value=None), "holds no value"),
        (of_parameter(), {}, "another parameter"),
    ],
)
async def test_what_is_not_what_was_asked_for_is_not_handed_out(made: AwsBlock, answer: Any, said: str) -> None:
    with pytest.raises(MintRefused, match=said):
        await Aws(answer).static.mint(order(), made)


@pytest.mark.parametrize(
    "failure",
    [
        Failure(code="AccessDeniedException", status=400),
        Failure(code="ResourceNotFoundException", status=400),
        Failure(code="InvalidRequestException", status=400),
        Failure(code="DecryptionFailure", status=400),
        Failure(code="ParameterNotFound", status=400),
        Failure(code="ParameterVersionNotFound", status=400),
        Failure(code="ThrottlingException", status=400),
        BUSY,
    ],
)
async def test_a_definite_refusal_is_one(failure: Failure) -> None:
    with pytest.raises(MintRefused) as refusal:
        await Aws(failure).static.mint(order(), of_secret())
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    "failure",
    [
        Failure(code="ReadTimeoutError"),
        Failure(code="InternalServiceError", status=500),
        Failure(code="AccessDeniedException", status=502),
        Failure(code="", status=403),
    ],
)
async def test_anything_else_is_in_doubt_and_says_what_the_answer_was(failure: Failure) -> None:
    with pytest.raises(MintInDoubt, match=re.escape(f"({told(failure)})")):
        await Aws(failure).static.mint(order(), of_secret())


def test_of_an_answer_that_decides_nothing_only_code_and_status_are_told() -> None:
    assert told(Failure(code="InternalServiceError", status=500)) == "InternalServiceError, HTTP 500"
    assert told(Failure(code="<b>words", status=403)) == "unknown error, HTTP 403"
    assert told(Failure(code="ReadTimeoutError")) == "ReadTimeoutError"


async def test_two_slow_calls_together_take_no_longer_than_one_may() -> None:
    aws = Aws(secret_answer(SecretString="x"))

    async def slow(*_: object) -> Minted:
        await asyncio.sleep(60)
        raise AssertionError

    static = Static(slow, aws.read, aws.clock, lambda: None, limit=timedelta(seconds=0.01))
    with pytest.raises(MintInDoubt, match="too long"):
        await static.mint(order(), of_secret())


async def test_what_sts_refused_stays_refused() -> None:
    aws = Aws(secret_answer(SecretString="x"))

    async def refused(*_: object) -> Minted:
        raise MintRefused("AWS refused AssumeRole: malformed session policy")

    static = Static(refused, aws.read, aws.clock, lambda: None, limit=timedelta(seconds=9))
    with pytest.raises(MintRefused, match="malformed"):
        await static.mint(order(), of_secret())
    assert aws.asked == []


def test_a_doubt_is_over_when_nothing_lands_and_its_session_is_dead() -> None:
    aws = Aws({})
    ref = order().ref
    aws.clock.advance(119)
    assert aws.static.settle(ref, final=True).evidence is None
    aws.clock.advance(2)
    assert aws.static.settle(ref, final=False).evidence is None
    settled = aws.static.settle(ref, final=True)
    assert (settled.found, settled.evidence) == (False, Evidence.NOT_MINTED)
    assert ref.expires_at > aws.clock.now()  # long before the lease's own end
