"""What `check --live` says of answers that no server of the tests gives: an AWS of this file, by rules."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker.providers.aws.asks import Asks
from broker.providers.aws.calls import Clients, Failure
from broker.providers.aws.check.rehearsal import LONG_PAST, filled, powerless
from broker.providers.aws.check.rights import Rights
from broker.providers.aws.lanes import Lane
from broker.providers.aws.provider import AwsProvider
from broker.providers.aws.roles import Roles, Writable
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.settings import AwsSettings
from broker.providers.base import DeclaredScope, Findings, MintRefused
from broker.providers.heard import HeardTime
from tests.fakes.clock import START, FakeClock
from tests.unit.providers.aws.orders import order

ACCOUNT = "123456789012"
ARN = f"arn:aws:iam::{ACCOUNT}:role/data/etl"
BROKER = f"arn:aws:iam::{ACCOUNT}:role/svc/broker"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/broker/i-0123"
TRUST = {"Statement": [{"Effect": "Allow", "Principal": {"AWS": BROKER}, "Action": "sts:AssumeRole"}]}
REFUSED = Failure(code="AccessDenied", status=403)
NONE = Failure(code="NoSuchEntity", status=404)
SETTINGS = AwsSettings(installation="0123abcd4567", sts_region="eu-west-1")


class Aws:
    """Answers by operation; what is not said is refused. A narrow broker and its role, unless it is changed."""

    def __init__(self) -> None:
        self.trust: Any = TRUST
        self.seconds = 3600
        self.answers: dict[str, Any] = {
            "get_caller_identity": {"Account": ACCOUNT, "Arn": SESSION},
            "get_role": self._role,
            "list_role_policies": {"PolicyNames": ["own"]},
            "get_role_policy": lambda given: {"PolicyDocument": {}} if given["PolicyName"] == "own" else NONE,
            "put_role_policy": self._put,
            "delete_role_policy": NONE,
            "assume_role": {"PackedPolicySize": 5, "Credentials": {"SecretAccessKey": "secret"}},
        }
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def _role(self, given: dict[str, Any]) -> Any:
        return {
            "Role": {
                "Arn": ARN,
                "MaxSessionDuration": self.seconds,
                "AssumeRolePolicyDocument": self.trust,
                "PermissionsBoundary": {"PermissionsBoundaryArn": "x"},
            }
        }

    def _put(self, given: dict[str, Any]) -> Any:
        return Failure(code="MalformedPolicyDocument", status=400) if given["RoleName"] == "etl" else REFUSED

    def call(self, service: str, region: str, endpoint: str, operation: str, **given: Any) -> Any:
        self.calls.append((operation, given))
        answer = self.answers.get(operation, REFUSED)
        return answer(given) if callable(answer) else answer


class FakeClients(Clients):
    """Without an SDK."""

    def __init__(self, aws: Aws) -> None:
        self.call = aws.call  # type: ignore[method-assign]


@pytest.fixture
def aws() -> Aws:
    return Aws()


def scope(*, minutes: int = 10, **changes: Any) -> DeclaredScope:
    statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::lake/{workflow}"}
    block = {"role_arn": ARN, "regions": ["eu-west-1"], "statements": [statement], "revoke": "deny", **changes}
    return DeclaredScope(block=block, ttl=timedelta(minutes=minutes), name="lake")


async def check(aws: Aws, *scopes: DeclaredScope, ahead: timedelta = timedelta()) -> Findings:
    """By a machine whose clock is so much ahead of AWS's."""
    clock = FakeClock()
    heard = HeardTime(clock)
    heard.hear((START - ahead).strftime("%a, %d %b %Y %H:%M:%S GMT"))
    lanes = Lane("a", 4, 1.0), Lane("b", 4, 1.0)
    asks = Asks(SETTINGS, FakeClients(aws), mints=lanes[0], revokes=lanes[1])
    try:
        return await Rights(SETTINGS, asks, clock, heard, lambda: START + timedelta(hours=1)).problems(scopes)
    finally:
        for lane in lanes:
            await lane.close()


async def test_without_fault(aws: Aws) -> None:
    found = await check(aws, scope(), scope(revoke="bound"))
    assert found == []
    assert found.remarks == [
        f"the broker is {SESSION} of account {ACCOUNT}",
        f"its credentials end at {(START + timedelta(hours=1)):%Y-%m-%dT%H:%M:%SZ}, in 60 minutes, unless they are renewed",
    ]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("MalformedPolicyDocument", "AWS does not take its session policy"),
        ("PackedPolicyTooLarge", "too large once packed"),
        ("RegionDisabledException", "STS is not active in its region"),
        ("ExpiredToken", "they have expired"),
        ("SignatureDoesNotMatch", "the secret key does not fit"),
        ("Throttling", "gave no definite answer (Throttling): ask again"),
        ("words of the service, <b>", "gave no definite answer (unknown error)"),
        ("ValidationError", "takes a parameter of its AssumeRole for invalid"),
    ],
)
async def test_a_refusal_of_the_session_is_one_line_about_its_scope(aws: Aws, code: str, told: str) -> None:
    aws.answers["assume_role"] = Failure(code=code, status=400)
    (problem,) = await check(aws, scope())
    assert problem.startswith("scope lake: ")
    assert told in problem
    assert "words of" not in problem


@pytest.mark.parametrize("code", ["SignatureDoesNotMatch", "RequestExpired", "RequestTimeTooSkewed"])
async def test_a_wrong_clock_is_told_from_a_wrong_secret(aws: Aws, code: str) -> None:
    aws.answers["get_caller_identity"] = Failure(code=code, status=403)
    (problem,) = await check(aws, ahead=timedelta(minutes=20))
    assert f"refused the broker's signature ({code}): this machine's clock is wrong by 1200 s" in problem


async def test_what_was_not_sent_says_why(aws: Aws) -> None:
    aws.answers["get_caller_identity"] = Failure(
        code="BrokerCredentialsExpired", sent=False, why="they have expired; x"
    )
    assert await check(aws, scope()) == ["STS in eu-west-1 was not asked: they have expired; x"]


async def test_where_nothing_says_who_the_broker_is_the_trusted_are_named(aws: Aws) -> None:
    """Ceph's STS has no GetCallerIdentity."""
    aws.answers["get_caller_identity"] = Failure(code="MethodNotAllowed", status=405)
    aws.answers["assume_role"] = REFUSED
    (problem,) = await check(aws, scope())
    assert f"whose trust policy names '{BROKER}': if that is not the broker" in problem
    aws.answers["get_role"] = REFUSED
    assert any("or the broker's key is wrong" in problem for problem in await check(aws, scope()))


@pytest.mark.parametrize(
    ("condition", "fine"),
    [
        (None, False),
        ({"Null": {"aws:TokenIssueTime": "true"}}, True),
        ({"Null": {"AWS:tokenissuetime": ["true"]}}, True),
        ({"Null": {"aws:TokenIssueTime": "false"}}, False),
        ({"StringEquals": {"aws:TokenIssueTime": "true"}}, False),
    ],
)
async def test_where_nothing_says_who_asks_sessions_may_become_the_role_again(
    aws: Aws, condition: Any, *, fine: bool
) -> None:
    """Ceph does not look at a session's deny of sts:AssumeRole."""
    more = {"Condition": condition} if condition else {}
    aws.trust = {"Statement": [{**TRUST["Statement"][0], **more}]}
    assert not any("aws:TokenIssueTime" in remark for remark in (await check(aws, scope())).remarks)
    aws.answers["get_caller_identity"] = Failure(code="MethodNotAllowed", status=405)
    told = any("aws:TokenIssueTime" in remark for remark in (await check(aws, scope())).remarks)
    assert told is not fine


def unless(*keys: str) -> Callable[[dict[str, Any]], Any]:
    """Refuses an AssumeRole with any of these."""
    return lambda given: REFUSED if given.keys() & set(keys) else {"PackedPolicySize": 1}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["Tags", "TransitiveTagKeys"], "scope lake: sts:TagSession is not allowed"),
        (["SourceIdentity"], "scope lake: sts:SetSourceIdentity is not allowed"),
        (["Tags", "SourceIdentity"], "scope lake: sts:TagSession and sts:SetSourceIdentity are not allowed"),
    ],
)
async def test_what_is_not_allowed_beside_the_role_is_found_by_leaving_it_out(
    aws: Aws, keys: list[str], told: str
) -> None:
    aws.answers["assume_role"] = unless(*keys)
    extras: dict[str, Any] = {
        "session_tags": {"team": "{workflow}"},
        "transitive_tags": True,
        "source_identity": "lease",
    }
    (problem,) = await check(aws, scope(**extras))
    assert problem.startswith(told)


async def test_a_duration_above_the_role_s(aws: Aws) -> None:
    aws.answers["assume_role"] = Failure(code="ValidationError", status=400)
    (problem,) = await check(aws, scope(minutes=90))
    assert f"its ttl is longer than the 1:00:00 that {ARN} gives" in problem
    aws.seconds = 43_200
    (problem,) = await check(aws, scope(minutes=90))
    assert "longer than the hour that AWS gives to a session made from another" in problem


@pytest.mark.parametrize(
    ("demanded", "said", "told"),
    [
        ("other", "acme", "demands another external id than the scope's"),
        ("acme", None, "demands an external id, and the scope has none"),
        ("acme", "acme", "the broker's own policy does not allow it"),
    ],
)
async def test_a_refusing_trust_is_read(aws: Aws, demanded: str, said: str | None, told: str) -> None:
    condition = {"StringEquals": {"sts:ExternalId": demanded}}
    aws.trust = {"Statement": [{**TRUST["Statement"][0], "Condition": condition}]}
    aws.answers["assume_role"] = REFUSED
    (problem,) = await check(aws, scope(external_id=said))
    assert told in problem


async def test_a_trust_that_cannot_be_read_leaves_three_causes(aws: Aws) -> None:
    aws.answers |= {"assume_role": REFUSED, "get_role": REFUSED}
    (problem,) = await check(aws, scope(revoke="bound"))
    assert "it does not exist, its trust policy does not name" in problem


async def test_an_external_id_that_nobody_demands_is_remarked(aws: Aws) -> None:
    found = await check(aws, scope(external_id="acme"))
    assert found == []
    assert f"scope lake: the trust policy of {ARN} does not demand the external id" in found.remarks
    aws.answers["assume_role"] = lambda given: {} if "ExternalId" in given else REFUSED
    assert not any("does not demand" in remark for remark in (await check(aws, scope(external_id="acme"))).remarks)


async def test_a_session_nearly_too_large_is_remarked(aws: Aws) -> None:
    aws.answers["assume_role"] = {"PackedPolicySize": 93}
    found = await check(aws, scope())
    assert any("take 93 % of the packed size" in remark for remark in found.remarks)


async def test_others_that_may_assume_the_role_are_named_as_text(aws: Aws) -> None:
    aws.trust = {
        "Statement": [{**TRUST["Statement"][0], "Principal": {"AWS": [BROKER, "a\x1b[31mb"], "Service": "ec2"}}]
    }
    remarks = (await check(aws, scope())).remarks
    assert any("lets 'a\\x1b[31mb', 'ec2' assume it" in remark for remark in remarks)


async def test_root_is_too_much(aws: Aws) -> None:
    aws.answers["get_caller_identity"] = {"Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:root"}
    assert any("the account's root user" in problem for problem in await check(aws))


async def test_one_lookup_per_role_however_many_scopes(aws: Aws) -> None:
    await check(aws, *(scope() for _ in range(5)))
    asked = [operation for operation, _ in aws.calls]
    assert (asked.count("get_role"), asked.count("assume_role")) == (1, 5)


async def test_a_hub_of_the_role_s_account_may_be_what_denies(aws: Aws) -> None:
    far = "arn:aws:iam::210987654321:role/etl"
    found = await check(aws, scope(role_arn=far))
    assert any("is not of the broker's account" in problem for problem in found)
    hub = "arn:aws:iam::210987654321:role/hub"
    aws.calls.clear()
    assert not any("is not of" in problem for problem in await check(aws, scope(role_arn=far, via=hub)))
    assert {given.get("via") for operation, given in aws.calls if operation in ("get_role", "assume_role")} == {hub}


def test_the_session_of_a_rehearsal_is_dead_before_it_is_made() -> None:
    declared = scope(session_tags={"team": "{workflow}"})
    given = powerless(declared, AwsBlock.model_validate(filled(declared.block)), datetime(2026, 11, 28, tzinfo=UTC))
    past = f'"DateGreaterThan":{{"aws:CurrentTime":"{LONG_PAST:%Y-%m-%dT%H:%M:%SZ}"}}'
    assert given["Policy"].endswith(f'{{"Effect":"Deny","Action":"*","Resource":"*","Condition":{{{past}}}}}]}}')
    assert given["Tags"] == [{"Key": "team", "Value": "sample-value"}]
    assert "{" not in given["Tags"][0]["Value"]


async def test_what_a_map_promised_before_it_was_known_is_not_minted() -> None:
    roles = Roles()
    block = AwsBlock.model_validate(scope().block)
    assert roles.learn(block, Writable.NO)
    assert not roles.learn(block, Writable.UNKNOWN)  # an unreachable AWS takes nothing back
    provider = AwsProvider(SETTINGS, FakeClock(), epoch=lambda: 1, roles=roles)
    with pytest.raises(MintRefused, match="could not be ended early"):
        await provider.mint(order(**scope().block))
    await provider.close()
