"""What holds of every compiled policy, whatever an operator writes: judged by an evaluator of its own.

Each of our denies is also taken away, and the property must then fail: `test_without_a_deny_…`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.session import get_session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.compile import GLOBAL_SERVICES, unbounded_policy
from tests.support.iam import Request, allows

BOUND = datetime(2026, 11, 23, 10, 5, tzinfo=UTC)
HERE, ELSEWHERE = "eu-west-1", "us-east-1"

# What makes credentials of any kind; the rest of STS makes none. GetServiceBearerToken is a permission, not a call.
HARMLESS = {"DecodeAuthorizationMessage", "GetAccessKeyInfo", "GetCallerIdentity"}
MAKES_SESSIONS = [
    *[
        "AssumeRole",
        "AssumeRoleWithSAML",
        "AssumeRoleWithWebIdentity",
        "AssumeRoot",
        "GetDelegatedAccessToken",
        "GetFederationToken",
        "GetSessionToken",
        "GetWebIdentityToken",
        "GetServiceBearerToken",
    ]
]
CALLS = [
    *(f"sts:{name}" for name in (*MAKES_SESSIONS, *HARMLESS, "TagSession", "SetSourceIdentity")),
    *(
        "s3:GetObject",
        "s3:PutObject",
        "dynamodb:Query",
        "iam:GetRole",
        "iam:CreateAccessKey",
        "route53:ListHostedZones",
    ),
    *("cloudfront:CreateInvalidation", "ec2:DescribeInstances", "ssm:GetParameter", "kms:Decrypt", "waf:GetRule"),
]
RESOURCES = [
    "arn:aws:s3:::lake/a/b",
    "arn:aws:iam::123456789012:role/other",
    "arn:aws:dynamodb:eu-west-1:1:table/t",
    "*",
]


@st.composite
def _patterns(draw: st.DrawFn, of: list[str]) -> str:
    """A text, with pieces of it as wildcards, and in any case."""
    text = draw(st.sampled_from(of))
    start = text.find(":") + 1  # services are named, or it is * alone
    for _ in range(draw(st.integers(0, 2))):
        at, size = draw(st.integers(start, len(text) - 1)), draw(st.integers(1, 8))
        text = text[:at] + draw(st.sampled_from("*?")) + text[at + size :]
        if len(text) <= start:
            break
    spellings = [text, text.lower(), text.upper(), text.swapcase()]
    return spellings[draw(st.integers(0, 3))]


ACTIONS = st.lists(st.one_of(_patterns(CALLS), st.just("*"), st.just("sts:*")), min_size=1, max_size=3)
WHERE = st.lists(st.sampled_from([*RESOURCES, "arn:aws:s3:::*", "arn:*"]), min_size=1, max_size=2)
CONDITIONS = st.sampled_from(
    [
        None,
        {"StringEquals": {"aws:RequestedRegion": ELSEWHERE}},
        {"StringNotEquals": {"aws:RequestedRegion": HERE}},
        {"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}},
        {"StringLikeIfExists": {"aws:userid": "*"}},
        {"Null": {"aws:TokenIssueTime": False}},
        {"Bool": {"aws:SecureTransport": True}},
    ]
)


@st.composite
def _statements(draw: st.DrawFn) -> dict[str, Any]:
    made: dict[str, Any] = {"Effect": draw(st.sampled_from(["Allow", "Allow", "Allow", "Deny"]))}
    made[draw(st.sampled_from(["Action", "Action", "NotAction"]))] = draw(ACTIONS)
    made[draw(st.sampled_from(["Resource", "Resource", "NotResource"]))] = draw(WHERE)
    if (condition := draw(CONDITIONS)) is not None:
        made["Condition"] = condition
    return made


BLOCKS = st.lists(_statements(), min_size=1, max_size=4).filter(
    lambda made: any(one["Effect"] == "Allow" for one in made)
)
TIMES = st.integers(-3600, 0).map(lambda seconds: BOUND + timedelta(seconds=seconds))
LATER = st.integers(1, 10**9).map(lambda seconds: BOUND + timedelta(seconds=seconds))
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def compiled(statements: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    """The statements of the policy."""
    good = {"role_arn": "arn:aws:iam::123456789012:role/etl", "regions": [HERE], "statements": statements}
    block = AwsBlock.model_validate({**good, **changes})
    made: list[dict[str, Any]] = json.loads(unbounded_policy(block, BOUND))["Statement"]
    return made


def request(action: str, resource: str = "*", region: str = HERE, at: datetime = BOUND) -> Request:
    """Of a session, with the keys that AWS always gives."""
    return Request(
        action=action,
        resource=resource,
        context={
            "aws:RequestedRegion": [region],
            "aws:CurrentTime": [at.strftime("%Y-%m-%dT%H:%M:%SZ")],
            "aws:userid": ["AROA:o6frhlsxpvtenmth"],
            "aws:TokenIssueTime": ["2026-11-23T10:00:00Z"],
            "aws:SecureTransport": ["true"],
        },
    )


def test_the_list_of_calls_that_make_sessions_is_whole() -> None:
    known = set(get_session().get_service_model("sts").operation_names)
    assert known - HARMLESS <= set(MAKES_SESSIONS)


@given(statements=BLOCKS, call=st.sampled_from(MAKES_SESSIONS), resource=st.sampled_from(RESOURCES), at=TIMES)
@QUICK
def test_no_statements_let_a_session_make_another(statements: Any, call: str, resource: str, at: datetime) -> None:
    assert not allows(compiled(statements), request(f"sts:{call}", resource, at=at))


@given(statements=BLOCKS, call=st.sampled_from(CALLS), resource=st.sampled_from(RESOURCES), at=LATER)
@QUICK
def test_no_statements_let_a_session_do_anything_after_its_bound(
    statements: Any, call: str, resource: str, at: datetime
) -> None:
    for chain in (False, True):
        assert not allows(compiled(statements, may_chain=chain), request(call, resource, at=at))


@given(statements=BLOCKS, call=st.sampled_from(CALLS), resource=st.sampled_from(RESOURCES))
@QUICK
def test_outside_its_regions_a_session_has_only_global_services_that_an_allow_names(
    statements: Any, call: str, resource: str
) -> None:
    service = call.split(":", maxsplit=1)[0]
    named = {
        action.split(":")[0].lower()
        for one in statements
        if one["Effect"] == "Allow"
        for action in one.get("Action", ())
    }
    if allows(compiled(statements, may_chain=True), request(call, resource, ELSEWHERE)):
        assert service in GLOBAL_SERVICES & named


@given(statements=BLOCKS, call=st.sampled_from(CALLS), resource=st.sampled_from(RESOURCES), at=TIMES)
@QUICK
def test_elsewhere_the_policy_says_what_the_operator_said(
    statements: Any, call: str, resource: str, at: datetime
) -> None:
    asked = request(call, resource, at=at)
    spelled = json.loads(json.dumps(statements).replace("true", '"true"').replace("false", '"false"'))
    meant = allows(spelled, asked)
    assert allows(compiled(statements, may_chain=True), asked) is meant
    if call.removeprefix("sts:") not in MAKES_SESSIONS:
        assert allows(compiled(statements), asked) is meant


@pytest.mark.parametrize(
    ("deny", "asked"),
    [
        ("aws:RequestedRegion", request("s3:GetObject", region=ELSEWHERE)),
        ("sts:Assume*", request("sts:AssumeRole")),
        ("aws:CurrentTime", request("s3:GetObject", at=BOUND + timedelta(seconds=1))),
    ],
)
def test_without_a_deny_of_ours_it_would_be_allowed(deny: str, asked: Request) -> None:
    policy = compiled([{"Effect": "Allow", "Action": "*", "Resource": "*"}])
    assert not allows(policy, asked)
    assert allows([one for one in policy if deny not in json.dumps(one)], asked)


@pytest.mark.parametrize("pattern", ["sts:Assume*", "sts:Get*Token"])
def test_each_pattern_of_the_deny_is_needed(pattern: str) -> None:
    policy = compiled([{"Effect": "Allow", "Action": "*", "Resource": "*"}])
    for one in policy:
        if pattern in one.get("Action", ()):
            one["Action"] = [each for each in one["Action"] if each != pattern]
    assert any(allows(policy, request(f"sts:{call}")) for call in MAKES_SESSIONS)


def test_a_stored_value_is_all_that_its_session_reads() -> None:
    secret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:orders/db-a1B2c3"
    key = "arn:aws:kms:eu-west-1:123456789012:key/7c9e6679"
    block = {"role_arn": "arn:aws:iam::123456789012:role/s", "secret": {"id": secret, "kms_key": key}}
    policy = json.loads(unbounded_policy(AwsBlock.model_validate(block), BOUND))["Statement"]

    def reads(action: str, resource: str, **context: str) -> bool:
        asked = request(action, resource)
        more = {name.replace("_", ":"): [value] for name, value in context.items()}
        return allows(policy, Request(action=action, resource=resource, context={**asked.context, **more}))

    assert reads("secretsmanager:GetSecretValue", secret, secretsmanager_VersionStage="AWSCURRENT")
    assert not reads("secretsmanager:GetSecretValue", secret, secretsmanager_VersionStage="AWSPREVIOUS")
    assert not reads("secretsmanager:GetSecretValue", secret)
    assert not reads("secretsmanager:GetSecretValue", secret + "x", secretsmanager_VersionStage="AWSCURRENT")
    assert not reads("secretsmanager:PutSecretValue", secret, secretsmanager_VersionStage="AWSCURRENT")
    assert reads("kms:Decrypt", key, kms_ViaService="secretsmanager.eu-west-1.amazonaws.com")
    assert not reads("kms:Decrypt", key, kms_ViaService="s3.eu-west-1.amazonaws.com")
    assert not reads("kms:Decrypt", key)
