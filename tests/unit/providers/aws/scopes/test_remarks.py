"""What lint says of a good block: how wide it is, and whether its policy fits with the longest values."""

from __future__ import annotations

from typing import Any

import pytest

from broker.model import Remark
from broker.policy.templates import fill
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.compile import POLICY_CHARACTERS, PolicyTooLargeError, session_policy
from broker.providers.aws.scopes.kind import AwsScope
from broker.providers.aws.scopes.size import SOME_BOUND
from broker.providers.aws.scopes.texts import partition_of


def block(*statements: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "role_arn": "arn:aws:iam::123456789012:role/etl",
        "regions": ["eu-west-1"],
        "statements": list(statements),
        **more,
    }


def allow(action: Any = "s3:GetObject", resource: Any = "arn:aws:s3:::lake/*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def remarks(*statements: dict[str, Any]) -> list[Remark]:
    found = block(*statements)
    assert AwsScope().validate(found) == []
    return list(AwsScope().warnings(found))


@pytest.mark.parametrize(
    ("statement", "rule", "key"),
    [
        (allow("*"), "any-action", "Action"),
        (allow(["s3:GetObject", "s3:*"]), "any-action", "Action"),
        (allow("s3:**"), "any-action", "Action"),
        (allow(resource="*"), "any-resource", "Resource"),
        (allow(resource=["arn:aws:s3:::lake", "arn:aws:s3:::*"]), "any-resource", "Resource"),
        (allow("iam:CreateAccessKey"), "outlives-its-end", "Action"),
        (allow("iam:UpdateAssumeRolePolicy"), "outlives-its-end", "Action"),
        (allow("IAM:Delete*Policy"), "outlives-its-end", "Action"),
        ({"Effect": "Allow", "NotAction": "iam:*", "Resource": "arn:aws:s3:::a"}, "not-action", "NotAction"),
        ({"Effect": "Allow", "Action": "s3:GetObject", "NotResource": "arn:aws:s3:::a"}, "not-resource", "NotResource"),
    ],
)
def test_wide_statements_are_remarked_where_they_stand(statement: dict[str, Any], rule: str, key: str) -> None:
    (found,) = remarks(allow(), statement)
    assert (found.rule, found.path) == (rule, ("statements", 1, key))


@pytest.mark.parametrize(
    "statement",
    [
        allow(),
        allow("s3:Get*"),
        allow(["iam:Get*", "iam:PassRole"]),
        {"Effect": "Deny", "Action": "iam:PutRolePolicy", "Resource": "*"},
        allow(resource="arn:aws:s3:::lake*"),
        allow(resource="arn:aws:dynamodb:eu-west-1:123456789012:table/*"),
        {"Effect": "Deny", "Action": "*", "Resource": "*"},
        {"Effect": "Deny", "NotAction": "s3:*", "NotResource": "arn:aws:s3:::a"},
    ],
)
def test_narrow_statements_and_denies_are_not(statement: dict[str, Any]) -> None:
    assert remarks(allow(), statement) == []


def of_size(characters: int, resource: str = "arn:aws:s3:::lake/{workflow}/") -> dict[str, Any]:
    """A statement whose policy has so many characters with the longest value in its template."""
    statement = allow(resource=resource)
    value = {"workflow": "x" * 64}
    missing = characters - len(session_policy(AwsBlock.model_validate(fill(block(statement), value)), SOME_BOUND))
    return allow(resource=resource + "y" * missing)


@pytest.mark.parametrize(("characters", "fits"), [(POLICY_CHARACTERS, 1), (POLICY_CHARACTERS + 1, 0)])
def test_the_size_is_that_of_the_longest_values(characters: int, fits: int) -> None:
    base = of_size(POLICY_CHARACTERS)
    base["Resource"] += "y" * (characters - POLICY_CHARACTERS)
    found = [one for one in remarks(base) if one.rule == "policy-size"]
    filled = AwsBlock.model_validate(fill(block(base), {"workflow": "x" * 64}))
    if fits:
        assert found == []
        assert len(session_policy(filled, SOME_BOUND)) == characters
    else:
        (one,) = found
        assert one.path == ("statements", 0)
        assert f"{characters:,} characters, 1 more than AWS takes, and a mint with them fails" in one.message
        with pytest.raises(PolicyTooLargeError, match=r"has 2,049 characters"):
            session_policy(filled, SOME_BOUND)


def test_the_longest_statement_is_named() -> None:
    wide = allow(resource=[f"arn:aws:s3:::bucket-{number}/{{workflow}}/*" for number in range(25)])
    (found,) = remarks(allow(), wide)
    assert (found.rule, found.path) == ("policy-size", ("statements", 1))
    assert "statement 2 is the longest" in found.message


def test_what_never_fits_stays_a_mistake() -> None:
    never = block(allow(resource=[f"arn:aws:s3:::{'b' * 60}-{number}/*" for number in range(30)]))
    assert [path for path, _ in AwsScope().validate(never)] == [("statements", 0)]


def test_what_has_no_effect_and_what_adds_is_told() -> None:
    tags = {"session_tags": {"team": "data"}, "transitive_tags": True}
    (idle,) = AwsScope().warnings(block(allow(), **tags))
    assert (idle.rule, idle.path, idle.note) == ("idle-transitive-tags", ("transitive_tags",), False)
    assert list(AwsScope().warnings(block(allow(), **tags, may_chain=True))) == []
    (adds,) = AwsScope().warnings(block(allow(), policy_arns="arn:aws:iam::aws:policy/ReadOnlyAccess"))
    assert (adds.rule, adds.path, adds.note) == ("managed-policies", ("policy_arns",), True)


LISTS = allow("s3:ListBucket", "arn:aws:s3:::lake")


def of_probe(
    *statements: dict[str, Any], call: str = "s3:ListObjectsV2", bucket: str = "lake", **more: Any
) -> list[str]:
    arguments = {"Bucket": bucket} if call.startswith("s3:") else {}
    found = block(*statements, probe={"call": call, "with": arguments}, **more)
    assert AwsScope().validate(found) == []
    return [one.message for one in AwsScope().warnings(found) if one.rule in ("probe-not-allowed", "probe-spoiled")]


@pytest.mark.parametrize(
    "statement",
    [
        LISTS,
        allow("s3:List*", "*"),
        allow("S3:listbucket", "arn:aws:s3:::l?ke"),
        allow("s3:ListBucket", ["arn:aws:s3:::other", "arn:aws:s3:::{workflow}"]),
        {"Effect": "Allow", "NotAction": ["s3:GetObject", "s3:Put*"], "Resource": "*"},
        {"Effect": "Allow", "Action": "s3:ListBucket", "NotResource": "arn:aws:s3:::x"},
    ],
)
def test_a_probe_that_a_statement_allows_is_not_remarked(statement: dict[str, Any]) -> None:
    assert of_probe(statement) == []


def test_a_probe_that_no_statement_allows_is() -> None:
    assert of_probe(LISTS, bucket="lakee") == ["no statement allows s3:ListBucket on lakee, which the call needs"]
    told = ["no statement allows s3:GetBucketLocation, which the call needs"]
    assert of_probe(LISTS, call="s3:GetBucketLocation") == told
    assert of_probe({**LISTS, "Effect": "Deny"}, allow()) != []
    assert of_probe({"Effect": "Allow", "NotAction": "s3:List*", "Resource": "*"}) != []
    assert of_probe(allow(), call="ec2:DescribeRegions") != []
    arns = ["arn:aws:iam::aws:policy/ReadOnlyAccess"]
    assert of_probe(allow(), policy_arns=arns) == []  # what that allows is not known


def test_a_session_that_can_have_its_own_probe_refused_is_told() -> None:
    assert of_probe(LISTS, allow("s3:Put*")) == [
        "the session may s3:PutBucketPolicy: it can have its own probe refused"
    ]


@pytest.mark.parametrize(
    "region",
    [
        *(
            "eu-west-1",
            "us-gov-west-1",
            "cn-north-1",
            "ap-southeast-5",
            "me-central-1",
            "us-iso-east-1",
            "us-isob-east-1",
        ),
        *("eusc-de-east-1", "eu-isoe-west-1", "il-central-1", "ap-northeast-3", "us-isof-south-1"),
    ],
)
def test_regions_of_aws_are_known_by_their_names(region: str) -> None:
    role = f"arn:{partition_of(region)}:iam::123456789012:role/etl"
    found = block(allow(), regions=[region], role_arn=role)
    assert not [one for one in AwsScope().warnings(found) if one.rule == "odd-region"]


def test_a_region_that_is_none_is_remarked_where_it_stands() -> None:
    found = block(allow(), regions=["eu-west-1", "eu-wset-1"])
    (odd,) = AwsScope().warnings(found)
    assert (odd.rule, odd.path) == ("odd-region", ("regions", 1))
    assert not AwsScope().warnings({**found, "endpoint_url": "https://store.acme.internal"})
    assert not AwsScope().warnings({**found, "role_arn": "arn:aws:iam:::role/etl"})  # Ceph's
