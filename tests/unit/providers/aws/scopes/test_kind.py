from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model import Revocability, ScopeKind
from broker.providers.aws.scopes.kind import AwsScope

ALLOW = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::lake/{workflow}/*"}
GOOD: dict[str, Any] = {
    "role_arn": "arn:aws:iam::123456789012:role/etl",
    "regions": ["eu-west-1"],
    "statements": [ALLOW],
}


def problems(**changes: Any) -> dict[tuple[str | int, ...], str]:
    block = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return dict(AwsScope().validate(block))


def test_a_good_block_has_no_problems() -> None:
    kind: ScopeKind = AwsScope()
    assert kind.name == "aws"
    assert list(kind.validate(GOOD)) == []


def test_revocability_follows_revoke() -> None:
    assert AwsScope().revocability(GOOD) is Revocability.DENY_POLICY
    assert AwsScope().revocability({**GOOD, "revoke": "bound"}) is Revocability.EXPIRY_ONLY


def test_every_mistake_is_told_at_once_with_its_path() -> None:
    found = problems(
        role_arn=None, statments=[], may_chain="yes", statements=[{**ALLOW, "Principal": "*", "Effect": "allow"}]
    )
    assert found == {
        ("role_arn",): "needs role_arn",
        ("statments",): "unknown key; did you mean statements?",
        ("may_chain",): "input should be a valid boolean",
        ("statements", 0, "Principal"): "unknown key",
        ("statements", 0, "Effect"): "input should be 'Allow' or 'Deny'",
    }


@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:iam::12345678901:role/etl",
        "arn:aws:iam::123456789012:user/etl",
        "arn:aws:iam::123456789012:role/",
        "arn:aws:iam::123456789012:role/{workflow}",
        "arn:aws:iam::123456789012:role/*",
        "arn:aws:iam::123456789012:role/etl\n",
        "arn:aws:sts::123456789012:assumed-role/etl/x",
        "",
        7,
    ],
)
def test_only_one_exact_role_can_be_named(arn: Any) -> None:
    assert list(problems(role_arn=arn)) == [("role_arn",)]


@pytest.mark.parametrize(
    ("arn", "region"),
    [
        ("arn:aws:iam:::role/x", "default"),
        ("arn:aws-us-gov:iam::123456789012:role/a/b/c", "us-gov-west-1"),
        ("arn:aws-cn:iam::123456789012:role/x", "cn-north-1"),
    ],
)
def test_ceph_and_other_partitions_are_known(arn: str, region: str) -> None:
    assert problems(role_arn=arn, regions=region) == {}


@pytest.mark.parametrize(
    ("arn", "region"),
    [
        ("arn:aws:iam::123456789012:role/x", "cn-north-1"),
        ("arn:aws-us-gov:iam::123456789012:role/x", "us-east-1"),
        ("arn:aws-cn:iam::123456789012:role/x", "us-gov-west-1"),
    ],
)
def test_a_region_of_another_partition_is_a_mistake(arn: str, region: str) -> None:
    (message,) = problems(role_arn=arn, regions=[region]).values()
    assert message.startswith(f"region {region} is not of partition")
    assert problems(role_arn=arn, regions=None, any_region=True, sts_region=region).keys() == {()}


def test_regions_are_named_or_given_up_aloud() -> None:
    assert problems(regions=[]) == {(): "needs either regions or any_region: true"}
    assert problems(any_region=True) == {(): "needs either regions or any_region: true"}
    assert problems(regions=None, any_region=True) == {}


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ({"Effect": "Allow", "Resource": "*"}, "needs either Action or NotAction"),
        ({**ALLOW, "NotAction": "s3:PutObject"}, "needs either Action or NotAction"),
        ({"Effect": "Allow", "Action": "s3:GetObject"}, "needs either Resource or NotResource"),
        ({**ALLOW, "NotResource": "*"}, "needs either Resource or NotResource"),
    ],
)
def test_a_statement_is_whole(statement: dict[str, Any], message: str) -> None:
    assert problems(statements=[statement]) == {("statements", 0): message}


def test_a_scope_that_allows_nothing_is_a_mistake() -> None:
    assert problems(statements=[{**ALLOW, "Effect": "Deny"}]) == {(): "has no statement that allows anything"}
    assert list(problems(statements=[])) == [("statements",)]


def test_one_mistake_gives_one_error_where_aws_takes_a_text_or_a_list() -> None:
    assert problems(statements=[{**ALLOW, "Action": 5}]) == {
        ("statements", 0, "Action"): "must be actions such as s3:GetObject"
    }
    assert list(problems(statements=[{**ALLOW, "Resource": ["*", "bucket"]}])) == [("statements", 0, "Resource", 1)]
    assert problems(statements=[{**ALLOW, "Action": []}]) == {("statements", 0, "Action"): "must not be empty"}


@pytest.mark.parametrize(
    "url", ["http://sts.acme.internal", "https://sts.acme.internal/path", "ftp://127.0.0.1", "sts"]
)
def test_a_minted_secret_never_travels_in_clear(url: str) -> None:
    assert list(problems(sts_endpoint=url)) == [("sts_endpoint",)]


def test_a_policy_that_can_never_fit_is_found_before_it_is_minted() -> None:
    wide = {**ALLOW, "Resource": [f"arn:aws:s3:::lake/{n:050}/*" for n in range(40)]}
    found = problems(statements=[wide])
    (path,) = found
    assert path == ("statements", 0)
    assert "more than AWS takes; statement 1 is the longest" in found[path]
    assert "40 ARNs begin with arn:aws:s3:::lake/000" in found[path]


def test_a_template_counts_as_short_as_it_can_be() -> None:
    name = "{" + "n" * 60 + "}"
    fits_when_filled = {**ALLOW, "Resource": [f"arn:aws:s3:::{n}/{name}/*" for n in range(25)]}
    assert problems(statements=[fits_when_filled]) == {}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
        max_leaves=8,
    )
)
def test_no_block_makes_it_raise(value: Any) -> None:
    for name in (*GOOD, "external_id", "revoke", "unknown"):
        AwsScope().validate({**GOOD, name: value})
    AwsScope().validate({**GOOD, "statements": [{**ALLOW, "Condition": value, "Resource": value}]})


def test_needs_no_sdk() -> None:
    code = "import broker.providers.aws.scopes.kind, json, sys; print(json.dumps([m for m in sys.modules if m.startswith('boto')]))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(out.stdout) == []
