"""What the AWS provider builds on, seen on a real STS (Ceph), and where that one is not AWS. No code of the broker."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from tests.support.aws import document
from tests.support.ceph import CephServer
from tests.support.processes import wait_until

ALL_OF_S3 = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
Session = Mapping[str, str]
_numbers = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def buckets(ceph: CephServer) -> None:
    for name in ("real-lake", "real-pond"):
        ceph.create_bucket(name)


@pytest.fixture
def role(ceph: CephServer) -> str:
    """The name of a role of this test's own."""
    name = f"real-role-{next(_numbers)}"
    ceph.create_role(name)
    return name


@pytest.fixture
def pacific(ceph: CephServer) -> None:
    """For what is not as on AWS: other versions may have come closer."""
    if not ceph.version.startswith("16."):
        pytest.skip(f"seen on Ceph 16, this is {ceph.version}")


def arn(role: str) -> str:
    return f"arn:aws:iam:::role/{role}"


def put(ceph: CephServer, session: Session, bucket: str = "real-lake", key: str = "key") -> None:
    ceph.client("s3", **session).put_object(Bucket=bucket, Key=key, Body=b"1")


def listed(ceph: CephServer, session: Session, bucket: str = "real-lake") -> None:
    ceph.client("s3", **session).list_objects_v2(Bucket=bucket)


def refusal(call: Callable[..., Any], *given: Any, **named: Any) -> str:
    """The code that the call is refused with; "" = it was not."""
    try:
        call(*given, **named)
    except ClientError as error:
        response: Any = error.response
        return str(response.get("Error", {}).get("Code") or response.get("Code"))
    return ""


def write(ceph: CephServer, role: str, policy: str, *statements: Mapping[str, Any]) -> None:
    ceph.client("iam").put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=document(*statements))


def deny(operator: str, key: str, value: str | list[str]) -> dict[str, Any]:
    return {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": {operator: {key: value}}}


def stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


# --- what a session may do ---


def test_a_session_policy_narrows_the_role(ceph: CephServer, role: str) -> None:
    narrow = document({"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::real-lake/runs/1/*"})
    session = ceph.session(arn(role), "narrow", policy=narrow)
    put(ceph, session, key="runs/1/a")
    assert refusal(put, ceph, session, key="runs/2/a") == "AccessDenied"
    assert refusal(put, ceph, session, "real-pond", key="runs/1/a") == "AccessDenied"
    assert refusal(listed, ceph, session) == "AccessDenied"
    s3 = ceph.client("s3", **session)
    assert refusal(s3.get_object, Bucket="real-lake", Key="runs/1/a") == "AccessDenied"
    assert refusal(s3.delete_object, Bucket="real-lake", Key="runs/1/a") == "AccessDenied"
    assert refusal(s3.list_buckets) == "AccessDenied"


def test_a_session_policy_gives_nothing_that_the_role_has_not(ceph: CephServer) -> None:
    role_arn = ceph.create_role(
        "real-reader", permissions={"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::real-lake"}
    )
    session = ceph.session(role_arn, "wide", policy=document(ALL_OF_S3))
    listed(ceph, session)
    assert refusal(put, ceph, session) == "AccessDenied"
    assert refusal(listed, ceph, session, "real-pond") == "AccessDenied"


@pytest.mark.parametrize("statements", [[], [{"Effect": "Deny", "Action": "s3:GetObject", "Resource": "*"}]])
def test_a_session_policy_without_an_allow_allows_nothing(
    ceph: CephServer, role: str, statements: list[dict[str, Any]]
) -> None:
    session = ceph.session(arn(role), "empty", policy=document(*statements))
    assert refusal(put, ceph, session) == "AccessDenied"


def test_the_longest_session_policy_is_that_of_aws(ceph: CephServer, role: str) -> None:
    fitting, n = document(ALL_OF_S3), 0
    while len(longer := document(ALL_OF_S3, deny("StringLike", "aws:userid", [f"*:{i:08}" for i in range(n)]))) <= 2048:
        fitting, n = longer, n + 1
    put(ceph, ceph.session(arn(role), "long", policy=fitting))
    assert refusal(ceph.session, arn(role), "long", policy=longer) == "PackedPolicyTooLarge"


# --- when it ends ---


def test_a_session_of_900_seconds_dies_at_the_bound_in_its_policy(ceph: CephServer, role: str) -> None:
    bound = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
    policy = document(ALL_OF_S3, deny("DateGreaterThan", "aws:CurrentTime", stamp(bound)))
    session = ceph.session(arn(role), "bounded", policy=policy)
    sibling = ceph.session(arn(role), "sibling")
    put(ceph, session)
    wait_until(lambda: bool(refusal(put, ceph, session)), within=20, what="the bound")
    assert datetime.now(UTC) > bound
    assert refusal(put, ceph, session) == "AccessDenied"
    assert refusal(listed, ceph, session) == "AccessDenied"
    put(ceph, sibling)


def test_sts_own_expiry_is_kept_to_the_second(ceph: CephServer, role: str) -> None:
    begun = datetime.now(UTC)
    session = ceph.session(arn(role), "short", seconds=3)
    put(ceph, session)
    wait_until(lambda: bool(refusal(put, ceph, session)), within=20, what="the expiry")
    assert datetime.now(UTC) - begun > timedelta(seconds=3)
    assert refusal(put, ceph, session) == "AccessDenied"  # on AWS: ExpiredToken


def test_a_deny_by_name_kills_one_session_and_leaves_its_sibling(ceph: CephServer, role: str) -> None:
    one, other = (ceph.session(arn(role), name) for name in ("lease-one", "lease-other"))
    put(ceph, one)
    write(ceph, role, "deny", deny("StringLike", "aws:userid", ["*:lease-none", "*:lease-one"]))
    assert refusal(put, ceph, one) == "AccessDenied"
    assert refusal(listed, ceph, one) == "AccessDenied"
    put(ceph, other)
    again = ceph.session(arn(role), "lease-one", policy=document(ALL_OF_S3))
    assert refusal(put, ceph, again) == "AccessDenied"  # also one that nobody had seen

    ceph.client("iam").delete_role_policy(RoleName=role, PolicyName="deny")
    put(ceph, one)  # so an entry may only go after its session's own end


def test_a_user_id_is_the_role_id_and_the_sessions_name(ceph: CephServer, role: str) -> None:
    one, other = (ceph.session(arn(role), name) for name in ("lease-one", "lease-other"))
    role_id = ceph.client("iam").get_role(RoleName=role)["Role"]["RoleId"]
    write(ceph, role, "deny", deny("StringEquals", "aws:userid", f"{role_id}:lease-one"))
    assert refusal(put, ceph, one) == "AccessDenied"
    put(ceph, other)


def test_a_cut_off_kills_older_sessions_and_leaves_newer_ones(ceph: CephServer, role: str) -> None:
    old = ceph.session(arn(role), "old")
    cut = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    wait_until(lambda: datetime.now(UTC) > cut, within=5, what="the next second")
    new = ceph.session(arn(role), "new")
    put(ceph, old)
    write(ceph, role, "cut-off", deny("DateLessThan", "aws:TokenIssueTime", stamp(cut)))
    assert refusal(put, ceph, old) == "AccessDenied"
    put(ceph, new)


def test_a_session_does_not_outlive_its_role(ceph: CephServer, role: str) -> None:
    session = ceph.session(arn(role), "orphan")
    iam = ceph.client("iam")
    assert refusal(iam.delete_role, RoleName=role) == "DeleteConflict"
    iam.delete_role_policy(RoleName=role, PolicyName="permissions")
    iam.delete_role(RoleName=role)
    assert refusal(put, ceph, session) == "AccessDenied"
    ceph.create_role(role)
    assert refusal(put, ceph, session) == "AccessDenied"


# --- what is refused ---


def test_a_role_decides_whom_it_trusts(ceph: CephServer) -> None:
    trust = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam:::user/real-one"}, "Action": "sts:AssumeRole"}
    role_arn = ceph.create_role("real-distant", trust)
    assert refusal(ceph.session, role_arn, "other") == "AccessDenied"
    key_id, key = ceph.create_user("real-one")
    sts = ceph.client("sts", aws_access_key_id=key_id, aws_secret_access_key=key)
    sts.assume_role(RoleArn=role_arn, RoleSessionName="one")
    ceph.admin("user", "suspend", "--uid=real-one")
    assert refusal(sts.assume_role, RoleArn=role_arn, RoleSessionName="one") == "UserSuspended"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"aws_secret_access_key": "wrong"}, "SignatureDoesNotMatch"),
        ({"aws_session_token": "AAAA"}, "AccessDenied"),
    ],
)
def test_the_parts_of_a_session_are_looked_at(ceph: CephServer, role: str, changes: dict[str, str], code: str) -> None:
    session = ceph.session(arn(role), "forged")
    assert refusal(put, ceph, {**session, **changes}) == code
    without_token = {name: value for name, value in session.items() if name != "aws_session_token"}
    assert refusal(put, ceph, without_token) == "AccessDenied"


def test_wrong_keys_of_the_caller(ceph: CephServer, role: str) -> None:
    for key_id in (ceph.access_key_id, "NOBODY"):
        sts = ceph.client("sts", aws_access_key_id=key_id, aws_secret_access_key="wrong")
        assert refusal(sts.assume_role, RoleArn=arn(role), RoleSessionName="any") == "AccessDenied"


def test_codes_for_bad_orders(ceph: CephServer, role: str) -> None:
    assert refusal(ceph.session, arn("real-none"), "any") == "NoSuchEntity"  # on AWS: AccessDenied
    assert refusal(ceph.session, f"arn:aws:iam::123456789012:role/{role}", "any") == "NoSuchEntity"
    assert refusal(ceph.session, arn(role), "any", seconds=3601) == "InvalidArgument"  # AWS: ValidationError
    assert refusal(ceph.session, arn(role), "any", policy="{bad") == "MalformedPolicyDocument"
    long = ceph.create_role("real-long", max_seconds=43_200)
    ceph.session(long, "any", seconds=43_200)


def test_iam_asks_for_the_permission_before_it_reads_the_policy(ceph: CephServer, role: str) -> None:
    reads = ["iam:GetRole", "iam:ListRolePolicies", "iam:GetRolePolicy"]
    users = {
        "real-nobody": None,
        "real-looks": {"Effect": "Allow", "Action": reads, "Resource": arn(role)},
        "real-writes": {"Effect": "Allow", "Action": [*reads, "iam:PutRolePolicy"], "Resource": arn(role)},
    }
    ceph.create_role("real-foreign")
    told: dict[str, list[str]] = {}
    for name, permissions in users.items():
        key_id, key = ceph.create_user(name, permissions)
        iam = ceph.client("iam", aws_access_key_id=key_id, aws_secret_access_key=key)
        good = {"PolicyName": "written", "PolicyDocument": document(ALL_OF_S3)}
        told[name] = [
            refusal(iam.get_role, RoleName=role),
            refusal(iam.put_role_policy, RoleName=role, PolicyName="x", PolicyDocument="{bad"),
            refusal(iam.put_role_policy, RoleName=role, **good),
            refusal(iam.put_role_policy, RoleName="real-foreign", **good),
            refusal(iam.delete_role_policy, RoleName=role, PolicyName="permissions"),
        ]
    assert told == {
        "real-nobody": ["AccessDenied"] * 5,
        "real-looks": ["", *["AccessDenied"] * 4],
        "real-writes": ["", "MalformedPolicyDocument", "", "AccessDenied", "AccessDenied"],
    }


def test_a_session_has_no_say_in_iam(ceph: CephServer, role: str) -> None:
    iam = ceph.client("iam", **ceph.session(arn(role), "climber"))
    assert refusal(iam.get_role, RoleName=role) == "AccessDenied"
    grab = {"PolicyName": "mine", "PolicyDocument": document(ALL_OF_S3)}
    assert refusal(iam.put_role_policy, RoleName=role, **grab) == "AccessDenied"


# --- shapes ---


def test_what_the_answers_hold(ceph: CephServer, role: str) -> None:
    answer = ceph.client("sts").assume_role(RoleArn=arn(role), RoleSessionName="shape")
    assert answer["AssumedRoleUser"] == {"Arn": f"arn:aws:sts:::assumed-role/{role}/shape"}  # AWS: AssumedRoleId too
    assert answer["PackedPolicySize"] == 0  # always
    held = ceph.client("iam").get_role(RoleName=role)["Role"]
    assert (held["Arn"], held["MaxSessionDuration"]) == (arn(role), 3600)
    assert held["RoleId"]
    assert ceph.role_policies(role) == {"permissions": {"Version": "2012-10-17", "Statement": [ALL_OF_S3]}}


# --- where it is not AWS: what no test on it can prove ---


@pytest.mark.usefixtures("pacific")
@pytest.mark.parametrize(
    ("operator", "key", "value"),
    [
        ("StringNotEquals", "aws:RequestedRegion", "mars"),
        ("StringEquals", "aws:RequestedRegion", "eu-west-1"),
        ("StringEquals", "aws:PrincipalTag/run", "1"),
        ("StringEquals", "aws:SourceIdentity", "me@example"),
    ],
)
def test_not_aws_these_conditions_are_never_met(
    ceph: CephServer, role: str, operator: str, key: str, value: str
) -> None:
    write(ceph, role, "deny", deny(operator, key, value))
    tags = [{"Key": "run", "Value": "1"}]
    put(ceph, ceph.session(arn(role), "tagged", Tags=tags, TransitiveTagKeys=["run"], SourceIdentity="me@example"))


@pytest.mark.usefixtures("pacific")
def test_not_aws_managed_policies_do_not_narrow(ceph: CephServer, role: str) -> None:
    read_only = [{"arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}]
    put(ceph, ceph.session(arn(role), "managed", PolicyArns=read_only))


@pytest.mark.usefixtures("pacific")
def test_not_aws_a_denied_session_may_assume_further_roles(ceph: CephServer, role: str) -> None:
    no_sts = {"Effect": "Deny", "Action": ["sts:Assume*", "sts:Get*Token"], "Resource": "*"}
    session = ceph.session(arn(role), "chain", policy=document(ALL_OF_S3, no_sts))
    write(ceph, role, "deny", deny("StringLike", "aws:userid", "*:chain"))
    sts = ceph.client("sts", **session)
    sts.assume_role(RoleArn=arn(role), RoleSessionName="further")
    assert refusal(sts.get_session_token) == "AccessDenied"


def test_a_trust_policy_can_turn_sessions_away(ceph: CephServer) -> None:
    """What docs/aws.md says to do where a session's own deny of sts:AssumeRole is not looked at."""
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    demand = {"Condition": {"Null": {"aws:TokenIssueTime": "true"}}}
    role_arn = ceph.create_role("real-keys-alone", {**trust, **demand})
    sts = ceph.client("sts", **ceph.session(role_arn, "first"))
    assert refusal(sts.assume_role, RoleArn=role_arn, RoleSessionName="further") == "AccessDenied"


@pytest.mark.usefixtures("pacific")
def test_not_aws_an_external_id_is_never_right(ceph: CephServer) -> None:
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    demand = {"Condition": {"StringEquals": {"sts:ExternalId": "acme-prod"}}}
    role_arn = ceph.create_role("real-external", {**trust, **demand})
    for given in ({}, {"ExternalId": "acme-prod"}, {"ExternalId": "other"}):
        assert refusal(ceph.session, role_arn=role_arn, name="any", **given) == "AccessDenied"


@pytest.mark.usefixtures("pacific")
def test_not_aws_a_missing_object_is_told_to_a_denied_session(ceph: CephServer, role: str) -> None:
    """A probe that reads an object which is not there would take a dead session for one that lives."""
    put(ceph, ceph.session(arn(role), "dead"), key="there")
    write(ceph, role, "deny", deny("StringLike", "aws:userid", "*:dead"))
    s3 = ceph.client("s3", **ceph.session(arn(role), "dead"))
    assert refusal(s3.get_object, Bucket="real-lake", Key="there") == "AccessDenied"
    assert refusal(s3.get_object, Bucket="real-lake", Key="not-there") == "NoSuchKey"
    assert refusal(s3.head_object, Bucket="real-lake", Key="there") == "403"  # no body, no code: on AWS too


@pytest.mark.usefixtures("pacific")
@pytest.mark.parametrize("action", ["secretsmanager:GetSecretValue", "dynamodb:*", "s3:Unheard"])
def test_not_aws_a_policy_may_only_name_what_it_knows(ceph: CephServer, role: str, action: str) -> None:
    policy = document(ALL_OF_S3, {"Effect": "Deny", "Action": action, "Resource": "*"})
    assert refusal(ceph.session, arn(role), "any", policy=policy) == "MalformedPolicyDocument"
    spaced = json.dumps(json.loads(document(ALL_OF_S3)))
    assert refusal(ceph.session, arn(role), "any", policy=spaced) == "MalformedPolicyDocument"


@pytest.mark.usefixtures("pacific")
def test_not_aws_iam_has_no_budget_no_pages_and_few_calls(ceph: CephServer, role: str) -> None:
    iam = ceph.client("iam")
    write(ceph, role, "big", deny("StringLike", "aws:userid", [f"*:{i:016}" for i in range(1000)]))  # 21,000 characters
    answer = iam.list_role_policies(RoleName=role, MaxItems=1)
    assert (answer["PolicyNames"], answer.get("IsTruncated")) == (["big", "permissions"], None)
    with pytest.raises(ResponseParserError):  # a success and an error in one body
        iam.delete_role_policy(RoleName=role, PolicyName="none")
    assert refusal(iam.get_role_policy, RoleName=role, PolicyName="none") == "NoSuchEntity"
    boundary = "arn:aws:iam::aws:policy/ReadOnlyAccess"
    for call in (
        ceph.client("sts").get_caller_identity,
        lambda: iam.update_role(RoleName=role, MaxSessionDuration=7200),
        lambda: iam.put_role_permissions_boundary(RoleName=role, PermissionsBoundary=boundary),
        lambda: iam.list_attached_role_policies(RoleName=role),
    ):
        assert refusal(call) == "MethodNotAllowed"
