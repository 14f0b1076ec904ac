"""How much STS is sent, and what is said about shortening it."""

from __future__ import annotations

from typing import Any

import pytest

from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.kind import AwsScope
from broker.providers.aws.scopes.size import advice, measured
from broker.providers.aws.scopes.texts import LONGEST, SHORTEST
from tests.unit.providers.aws.scopes.test_kind import ALLOW, GOOD

EC2 = [
    *("RunInstances", "StartInstances", "StopInstances", "RebootInstances", "TerminateInstances", "CreateTags"),
    *("GetConsoleOutput", "GetPasswordData", "DescribeInstances", "DescribeImages", "DescribeInstanceTypes"),
    *("DescribeKeyPairs", "CreateKeyPair", "DeleteKeyPair", "CreateSecurityGroup", "DeleteSecurityGroup"),
    *("AuthorizeSecurityGroupIngress", "DescribeSecurityGroups"),
]
POD = {
    "eks-cluster-arn": "arn:aws:eks:eu-central-1:123456789012:cluster/production",
    "eks-cluster-name": "production",
    "kubernetes-namespace": "applications",
    "kubernetes-service-account": "application",
    "kubernetes-pod-name": "application-7d9c6b5f4d-x8k2p",
    "kubernetes-pod-uid": "1b4e28ba-2fa1-11d2-883f-0016d3cca427",
}


def block(**changes: Any) -> AwsBlock:
    return AwsBlock.model_validate({**GOOD, **changes})


def packed(**changes: Any) -> int:
    return measured(block(**changes), SHORTEST).packed


def test_the_estimate_is_above_what_was_reported() -> None:
    grants = [{"Effect": "Allow", "Action": f"ec2:{name}", "Resource": "*"} for name in EC2]
    tags = {"connection": "conn-0123456789", "kind": "vm", "account": "123456789012"}
    assert packed(statements=grants[:7], session_tags=tags, any_region=True, regions=[]) >= 82
    base = packed()
    assert packed(session_tags=POD) - base >= 74
    assert packed(session_tags={"b": "c", "c": "c"}) - base >= 2


def test_policies_arns_and_tags_all_count() -> None:
    base = packed()
    assert packed(policy_arns=["arn:aws:iam::123456789012:policy/teams/data/read"]) > base
    assert packed(session_tags={"team": "data"}) > base
    assert measured(block(), LONGEST).packed > base
    assert measured(block(policy_arns=["arn:aws:iam::aws:policy/x"]), SHORTEST).characters == (
        measured(block(), SHORTEST).characters + len("arn:aws:iam::aws:policy/x")
    )


def told(**changes: Any) -> dict[str, tuple[Any, str]]:
    made = {**GOOD, **changes}
    assert AwsScope().validate(made) == []
    return {one.rule: (one.path, one.message) for one in AwsScope().warnings(made)}


def test_what_takes_the_most_room_is_named() -> None:
    path, message = told(session_tags={f"tag-{number}": "{workflow}" for number in range(6)})["packed-size"]
    assert path == ("session_tags", "tag-0")
    assert "tag tag-0 is the longest part, with up to 69" in message
    assert "(an estimate)" in message
    path, message = told(statements=[ALLOW, {**ALLOW, "Action": [f"ec2:{name}" for name in EC2 * 2]}])["packed-size"]
    assert path == ("statements", 1)
    assert "statement 2 is the longest" in message


def test_a_small_block_is_not_remarked() -> None:
    assert told(session_tags={"workflow": "{workflow}"}) == {}


def test_a_tag_that_may_become_too_long_is_remarked_and_one_that_always_is_a_mistake() -> None:
    assert told(session_tags={"a": "/".join(["{workflow}"] * 4)})["tag-size"][0] == ("session_tags", "a")
    never = {**GOOD, "session_tags": {"a": "{workflow}/" + "x" * 255}}
    assert [path for path, _ in AwsScope().validate(never)] == [("session_tags", "a")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"statements": [ALLOW, {**ALLOW, "Resource": "arn:aws:s3:::b"}, {**ALLOW, "Action": "s3:x"}]},
            [
                "merge statements 1, 2, which differ in Resource only",
                "merge statements 1, 3, which differ in Action only",
            ],
        ),
        ({"statements": [{**ALLOW, "Sid": "Read"}]}, ["drop the Sids (13 characters)"]),
        (
            {"statements": [{**ALLOW, "Resource": [f"arn:aws:s3:::lake/raw/{n}" for n in range(3)]}]},
            ["statement 1: 3 ARNs begin with arn:aws:s3:::lake/raw/, one with a wildcard may do"],
        ),
        (
            {"statements": [{**ALLOW, "Action": [f"ec2:{name}" for name in EC2]}]},
            ["statement 1: 18 actions of ec2, a pattern such as ec2:Get* may do for some"],
        ),
        ({"session_tags": {"a": "b"}}, ["drop session tags (1 of them), or shorten keys and values"]),
        ({"policy_arns": ["arn:aws:iam::aws:policy/x"]}, ["let fewer policy_arns do"]),
    ],
)
def test_advice_is_concrete(changes: dict[str, Any], said: list[str]) -> None:
    found = advice(block(**changes)).split("; ")
    assert found[:-1] == said
    assert found[-1] == "let the role's own policy say it, and allow a pattern here"
