"""Compiled policies on a real STS (Ceph): it takes them, and decides as the evaluator does by which they are judged."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.compile import session_policy
from tests.support.ceph import CephServer
from tests.support.iam import Request, allows

BUCKETS = ("compiled-lake", "compiled-pond")
ROLE = "compiled"
ALL = "arn:aws:s3:::compiled-*"

# Statements whose conditions Ceph knows. Objects are a/1 and b/1, prefixes a/ and b/, in two buckets.
SETS: list[list[dict[str, Any]]] = [
    [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
    [{"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::compiled-lake/a/*"}],
    [{"Effect": "Allow", "Action": ["s3:Get*", "s3:list*"], "Resource": [ALL, f"{ALL}/*"]}],
    [{"Effect": "Allow", "Action": "s3:?etObject", "Resource": "arn:aws:s3:::compiled-????/b/1"}],
    [{"Effect": "Allow", "Action": "s3:*", "NotResource": "arn:aws:s3:::compiled-lake/*"}],
    [
        {"Effect": "Deny", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::*/a/*"},
        {"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
    ],
    [
        {"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
        {"Effect": "Deny", "Action": "S3:PUTOBJECT", "NotResource": "arn:aws:s3:::compiled-lake/a/*"},
    ],
    [
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": "arn:aws:s3:::compiled-lake",
            "Condition": {"StringLike": {"s3:prefix": "a/*"}},
        }
    ],
    [
        {
            "Effect": "Allow",
            "Action": "s3:*",
            "Resource": "*",
            "Condition": {"StringNotEquals": {"aws:userid": "x"}, "StringLikeIfExists": {"s3:prefix": "a*"}},
        }
    ],
]

ASKED = [
    *((f"s3:{act}Object", f"{bucket}/{key}") for act in ("Get", "Put") for bucket in BUCKETS for key in ("a/1", "b/1")),
    *(("s3:ListBucket", f"{bucket}|{prefix}") for bucket in BUCKETS for prefix in ("a/", "b/")),
]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def role(ceph: CephServer) -> str:
    """It may do anything; so the session policy alone decides."""
    for bucket in BUCKETS:
        ceph.create_bucket(bucket)
    arn = ceph.create_role(ROLE)
    s3 = ceph.client("s3", **ceph.session(arn, "setting-up"))
    for bucket, key in itertools.product(BUCKETS, ("a/1", "b/1")):
        s3.put_object(Bucket=bucket, Key=key, Body=b"1")
    return arn


def compiled(role: str, statements: list[dict[str, Any]], bound: datetime) -> str:
    block = AwsBlock.model_validate({"role_arn": role, "any_region": True, "statements": statements})
    return session_policy(block, bound)


def does(s3: Any, action: str, what: str) -> bool:
    """Is it let do it?"""
    name, _, prefix = what.partition("|")
    bucket, _, key = name.partition("/")
    try:
        if action == "s3:ListBucket":
            s3.list_objects_v2(Bucket=bucket, Prefix=prefix)
        elif action == "s3:GetObject":
            s3.get_object(Bucket=bucket, Key=key)
        else:
            s3.put_object(Bucket=bucket, Key=key, Body=b"1")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 403:
            raise
        return False
    return True


def judged(statements: list[dict[str, Any]], at: datetime) -> Iterator[tuple[str, str, bool]]:
    for action, what in ASKED:
        name, _, prefix = what.partition("|")
        context = {"aws:userid": ["id:lease-x"], "aws:CurrentTime": [at.strftime("%Y-%m-%dT%H:%M:%SZ")]}
        if prefix:
            context["s3:prefix"] = [prefix]
        yield action, what, allows(statements, Request(action=action, resource=f"arn:aws:s3:::{name}", context=context))


@pytest.mark.parametrize("statements", SETS)
def test_ceph_decides_as_the_evaluator_by_what_the_operator_wrote(
    ceph: CephServer, role: str, statements: list[dict[str, Any]]
) -> None:
    now = datetime.now(UTC)
    session = ceph.session(role, f"lease-{next(_numbers)}", policy=compiled(role, statements, now + timedelta(hours=1)))
    s3 = ceph.client("s3", **session)
    said = [(action, what, does(s3, action, what)) for action, what in ASKED]
    assert said == list(judged(statements, now))
    assert any(allowed for *_, allowed in said)


def test_past_the_bound_nothing_is_allowed(ceph: CephServer, role: str) -> None:
    policy = compiled(role, SETS[0], datetime.now(UTC) - timedelta(minutes=1))
    s3 = ceph.client("s3", **ceph.session(role, "lease-over", policy=policy))
    assert not any(does(s3, action, what) for action, what in ASKED)


def test_not_action_means_nothing_to_ceph_16(ceph: CephServer, role: str) -> None:
    """It applies to no action there, so that a deny by it is void: docs/aws.md says so."""
    if not ceph.version.startswith("16."):
        pytest.skip(f"seen on Ceph 16, this is {ceph.version}")
    for statements, allowed in (
        ([{"Effect": "Allow", "NotAction": "s3:PutObject", "Resource": "*"}], False),
        ([*SETS[0], {"Effect": "Deny", "NotAction": "s3:GetObject", "Resource": "*"}], True),
    ):
        policy = compiled(role, statements, datetime.now(UTC) + timedelta(hours=1))
        s3 = ceph.client("s3", **ceph.session(role, f"lease-{next(_numbers)}", policy=policy))
        assert {does(s3, action, what) for action, what in ASKED} == {allowed}
