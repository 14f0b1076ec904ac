"""Which calls may probe, and what is said of the others."""

from __future__ import annotations

from typing import Any

import botocore.session
import pytest
from botocore import xform_name

from broker.providers.aws.scopes.kind import AwsScope
from broker.providers.aws.scopes.probe_calls import CALLS, mistake


@pytest.fixture(scope="module")
def sdk() -> Any:
    return botocore.session.Session()


@pytest.mark.parametrize("name", CALLS)
def test_each_call_is_one_that_the_sdk_knows_and_it_only_reads(sdk: Any, name: str) -> None:
    call = CALLS[name]
    model = sdk.get_service_model(call.service)
    (operation,) = [one for one in model.operation_names if xform_name(one) == call.operation]
    assert operation == name.split(":")[1]
    assert operation.startswith(("Get", "List", "Describe"))
    shape = model.operation_model(operation).input_shape
    assert call.takes | call.always.keys() <= set(shape.members)
    # Whatever AWS demands, a scope must give.
    assert set(shape.required_members) <= call.needs | call.always.keys()
    assert call.needs <= call.takes
    assert {name for name in call.takes if shape.members[name].type_name == "list"} == call.lists
    assert mistake(name, dict.fromkeys(call.needs, "{dataset}-lake")) == ""


def test_only_the_services_own_code_of_a_denial_counts() -> None:
    call = CALLS["s3:ListObjectsV2"]
    assert call.refused(403, "AccessDenied")
    for status, code in [(403, "403"), (404, "NoSuchBucket"), (500, "AccessDenied"), (403, "SignatureDoesNotMatch")]:
        assert not call.refused(status, code)
    for code in (
        "ExpiredToken",
        "InvalidToken",
        "ExpiredTokenException",
        "Throttling",
        "SlowDown",
        "",
        "AllAccessDisabled",
    ):
        assert not any(one.refused(status, code) for one in CALLS.values() for status in (400, 403))


def test_what_is_sent_asks_for_the_least() -> None:
    assert mistake("s3:ListObjectsV2", {"Bucket": "lake", "MaxKeys": 1}) == ""
    assert CALLS["s3:ListObjectsV2"].parameters({"Bucket": "lake"}) == {"Bucket": "lake", "MaxKeys": 1}
    assert CALLS["ecr:DescribeRepositories"].parameters({"repositoryNames": "etl"}) == {"repositoryNames": ["etl"]}


@pytest.mark.parametrize(
    ("call", "arguments", "said"),
    [
        ("sts:GetCallerIdentity", {}, "never refused"),
        ("s3:HeadObject", {"Bucket": "lake"}, "no code with its refusal"),
        ("s3:GetObject", {"Bucket": "lake", "Key": "x"}, "NoSuchKey"),
        ("s3:PutObject", {"Bucket": "lake"}, "only reads"),
        ("s3:DeleteBucket", {}, "only reads"),
        ("iam:PassRole", {}, "only reads"),
        ("s3:ListBucket", {"Bucket": "lake"}, "the call is s3:ListObjectsV2"),
        ("dynamodb:DescribeTables", {}, "did you mean dynamodb:DescribeTable?"),
        ("s3:ListObjectV2", {}, "did you mean s3:ListObjectsV2?"),
        ("ListBuckets", {}, "must be service:Operation"),
        ("s3:ListObjectsV2", {}, "needs Bucket"),
        ("s3:ListObjectsV2", {"bucket": "lake"}, "did you mean Bucket?"),
        ("s3:ListObjectsV2", {"Bucket": "lake", "MaxKeys": 1000}, "takes Bucket, Prefix here"),
        ("s3:ListObjectsV2", {"Bucket": "lake", "MaxKeys": True}, "takes Bucket, Prefix here"),
        ("s3:ListObjectsV2", {"Bucket": ["lake"]}, "must be a text"),
        ("s3:ListObjectsV2", {"Bucket": 7}, "must be a text"),
        ("s3:ListObjectsV2", {"Bucket": ""}, "must be a text"),
        ("s3:ListObjectsV2", {"Bucket": "la\nke"}, "must be a text"),
        ("s3:ListObjectsV2", {"Bucket": "x" * 2049}, "must be a text"),
        ("ec2:DescribeRegions", {"AllRegions": "true"}, "takes nothing"),
    ],
)
def test_a_probe_that_cannot_tell_is_refused_with_the_reason(call: str, arguments: dict[str, Any], said: str) -> None:
    assert said in mistake(call, arguments)


@pytest.mark.parametrize(
    ("probe", "problems"),
    [
        ({"call": "s3:ListObjectsV2", "with": {"Bucket": "lake", "Prefix": "{workflow}/"}}, []),
        ({"call": "sts:GetCallerIdentity"}, ["never refused"]),
    ],
)
def test_a_scope_with_a_probe_that_cannot_tell_does_not_load(probe: dict[str, Any], problems: list[str]) -> None:
    block: dict[str, Any] = {
        "role_arn": "arn:aws:iam::123456789012:role/etl",
        "regions": ["eu-west-1"],
        "statements": [{"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::lake"}],
        "probe": probe,
    }
    found = AwsScope().validate(block)
    assert [path for path, _ in found] == [("probe",)] * len(problems)
    assert all(said in message for said, (_, message) in zip(problems, found, strict=True))
