"""What may stand in a block beside its statements, and which keys go together."""

from __future__ import annotations

from datetime import timedelta
from types import MappingProxyType
from typing import Any

import pytest

from broker.model import Revocability, Tier
from broker.policy.templates import mistakes
from broker.providers.aws.scopes.block import AwsBlock, block_of
from broker.providers.aws.scopes.kind import AwsScope
from tests.unit.providers.aws.scopes.test_kind import ALLOW, GOOD, problems

SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:orders/db-a1B2c3"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/7c9e6679-7425-40de-944b-e07fc1f90ae7"
STATIC = {"role_arn": GOOD["role_arn"], "secret": {"id": SECRET}}
SCOPE = AwsScope()


def static(**changes: Any) -> dict[tuple[str | int, ...], str]:
    block = {name: value for name, value in {**STATIC, **changes}.items() if value is not None}
    return dict(SCOPE.validate(block))


@pytest.mark.parametrize(
    "changes",
    [
        {"via": "arn:aws:iam::123456789012:role/hub"},
        {"via": "arn:aws:iam::123456789012:role/hub", "via_external_id": "acme-hub"},
        {"policy_arns": "arn:aws:iam::aws:policy/ReadOnlyAccess"},
        {"policy_arns": ["arn:aws:iam::123456789012:policy/a/b"], "statements": None},
        {"session_tags": {"workflow": "{workflow}", "Cost Centre": "a/{step}:b", "empty": ""}},
        {"session_tags": {"a": "1", "b": "2"}, "transitive_tags": ["b"], "may_chain": True},
        {"session_tags": {"a": "1"}, "transitive_tags": True, "may_chain": True},
        {"source_identity": "lease"},
        {"source_identity": "{run}"},
        {"when_full": "cutoff"},
        {"when_full": "refuse", "revoke": "deny"},
        {"probe": {"call": "s3:ListObjectsV2", "with": {"Bucket": "lake", "MaxKeys": 1, "Prefix": "{workflow}/"}}},
        {"probe": {"call": "dynamodb:DescribeTable", "with": {"TableName": "{workflow}"}}},
        {"probe": {"call": "s3:ListBuckets"}},
        {"fips": True, "sts_region": "us-east-1"},
        {"regions": "eu-west-1"},
    ],
)
def test_what_a_session_may_have(changes: dict[str, Any]) -> None:
    assert problems(**changes) == {}
    assert mistakes({**GOOD, **changes}) == []


SESSION_MISTAKES: list[tuple[dict[str, Any], tuple[str | int, ...], str]] = [
    ({"via": "{role}"}, ("via",), "must be a role's ARN"),
    ({"via": GOOD["role_arn"]}, (), "via is the role itself"),
    ({"via_external_id": "acme"}, (), "via_external_id is for the role of via, and there is none"),
    ({"policy_arns": ["arn:aws:iam::123456789012:role/x"]}, ("policy_arns", 0), "must be up to 10 ARNs"),
    ({"policy_arns": [f"arn:aws:iam::aws:policy/p{n}" for n in range(11)]}, ("policy_arns",), "must be up to 10 ARNs"),
    ({"policy_arns": ["arn:aws:iam::210987654321:policy/x"]}, (), "policy_arns: must be of the role's account"),
    ({"policy_arns": ["arn:aws-cn:iam::aws:policy/x"]}, (), "policy_arns: must be of the role's account"),
    ({"session_tags": {"aws:x": "1"}}, ("session_tags",), "keys that begin with aws:"),
    ({"session_tags": {"AWS:x": "1"}}, ("session_tags",), "keys that begin with aws:"),
    ({"session_tags": {"Team": "1", "team": "2"}}, ("session_tags",), "has two keys that differ in upper and lower"),
    ({"session_tags": {f"k{n}": "" for n in range(51)}}, ("session_tags",), "has 51 tags, STS takes 50"),
    ({"session_tags": {"k" * 129: "x"}}, ("session_tags", "k" * 129), "must be {Key: value}"),
    ({"session_tags": {"k": "x" * 257}}, ("session_tags", "k"), "must be {Key: value}"),
    ({"session_tags": {"k": "a,b"}}, ("session_tags", "k"), "must be {Key: value}"),
    ({"session_tags": {"k": "naïve"}}, ("session_tags", "k"), "must be {Key: value}"),
    ({"session_tags": {"k": 5}}, ("session_tags", "k"), "must be {Key: value}"),
    ({"session_tags": ["k"]}, ("session_tags",), "must be {Key: value}"),
    ({"session_tags": {"a": "1"}, "transitive_tags": ["b"]}, (), "transitive_tags: b is not one of session_tags"),
    ({"transitive_tags": False}, ("transitive_tags",), "must be true, or keys of session_tags"),
    ({"source_identity": "x"}, ("source_identity",), "must be lease, one {template}"),
    ({"source_identity": "a{run}"}, ("source_identity",), "must be lease, one {template}"),
    ({"source_identity": "a b"}, ("source_identity",), "must be lease, one {template}"),
    ({"when_full": "drop"}, ("when_full",), "input should be 'refuse' or 'cutoff'"),
    ({"when_full": "cutoff", "revoke": "bound"}, (), "when_full is for revoke: deny"),
    ({"probe": {"call": "s3:ListBuckets"}, "revoke": "bound"}, (), "probe is for revoke: deny"),
    ({"probe": {"call": "ListQueues"}}, ("probe", "call"), "must be service:Operation"),
    ({"probe": {"call": "s3:ListBuckets", "wiht": {}}}, ("probe", "wiht"), "unknown key; did you mean with?"),
    ({"probe": "s3:ListBuckets"}, ("probe",), "must be {call: service:Operation"),
    ({"secret": "arn:x"}, ("secret",), "must be {id: the secret's ARN}"),
    ({"parameter": "/a/b"}, ("parameter",), "must be {name: /its/name}"),
    ({"probe": {"with": {}}}, ("probe", "call"), "needs call"),
    ({"fips": True, "sts_endpoint": "https://sts.acme.internal"}, (), "either fips or sts_endpoint"),
    ({"fips": True, "sts_region": "eu-west-1"}, (), "fips: STS has such endpoints in us-… regions only"),
    ({"fips": "yes"}, ("fips",), "input should be a valid boolean"),
    ({"statements": None}, (), "needs statements, policy_arns, secret or parameter"),
    ({"statements": [{**ALLOW, "Sid": "A"}, {**ALLOW, "Sid": "A"}]}, ("statements",), "Sid A is there twice"),
    ({"statements": [{**ALLOW, "Condition": {"StringEqual": {"a:b": "c"}}}]}, (), "must be {Operator: {key:"),
    ({"statements": [{**ALLOW, "Condition": {"NullIfExists": {"a:b": "c"}}}]}, (), "must be {Operator: {key:"),
]


@pytest.mark.parametrize(("changes", "path", "message"), SESSION_MISTAKES)
def test_what_a_session_may_not_have(changes: dict[str, Any], path: tuple[str | int, ...], message: str) -> None:
    ((found, said),) = problems(**changes).items()
    assert said.startswith(message)
    assert found == path or (path == () and found[0] == "statements")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"regions": ["eu-west-1"]},
        {"secret": {"id": SECRET, "stage": "AWSPREVIOUS", "kms_key": KEY}},
        {"secret": {"id": SECRET, "version_id": "1b4e28ba-2fa1-41d2-883f-0016d3cca427"}},
        {"secret": None, "parameter": {"name": "/orders/{workflow}/password", "version": 3}, "regions": ["eu-west-1"]},
        {"secret": None, "parameter": {"name": "orders-password"}, "regions": ["eu-west-1"]},
        {"secret": None, "parameter": {"name": "arn:aws:ssm:eu-west-1:210987654321:parameter/shared/x"}},
        {"via": "arn:aws:iam::123456789012:role/hub", "external_id": "acme", "session_tags": {"a": "b"}},
        {"sts_region": "eu-west-1", "source_identity": "lease", "endpoint_url": "http://127.0.0.1:5000"},
    ],
)
def test_what_a_stored_value_may_have(changes: dict[str, Any]) -> None:
    assert static(**changes) == {}


ID, NAME = ("secret", "id"), ("parameter", "name")


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"statements": [ALLOW]}, (), "statements is for sessions: the step gets the value of the secret"),
        ({"policy_arns": ["arn:aws:iam::aws:policy/x"]}, (), "policy_arns is for sessions"),
        ({"may_chain": True}, (), "may_chain is for sessions"),
        ({"revoke": "deny"}, (), "revoke is for sessions"),
        ({"when_full": "refuse"}, (), "when_full is for sessions"),
        ({"probe": {"call": "s3:ListBuckets"}}, (), "probe is for sessions"),
        ({"any_region": True}, (), "any_region is for sessions"),
        ({"session_tags": {"a": "b"}, "transitive_tags": True}, (), "transitive_tags is for sessions"),
        ({"parameter": {"name": "/a/b"}}, (), "either secret or parameter"),
        ({"regions": ["eu-west-2"]}, (), "regions: the secret is in eu-west-1"),
        ({"regions": ["eu-west-1", "eu-west-2"]}, (), "needs exactly one region, where the secret is"),
        ({"secret": None, "parameter": {"name": "/a/b"}}, (), "needs exactly one region, where the parameter is"),
        (
            {"secret": {"id": SECRET, "kms_key": KEY.replace("eu-west-1", "eu-west-2")}},
            (),
            "kms_key: is in another region",
        ),
        (
            {"secret": {"id": SECRET, "kms_key": KEY.replace("key/", "alias/")}},
            ("secret", "kms_key"),
            "must be a key's ARN",
        ),
        ({"secret": {"id": SECRET, "stage": "A", "version_id": "1" * 32}}, ("secret",), "either version_id or stage"),
        ({"secret": {"id": SECRET, "version_id": "1"}}, ("secret", "version_id"), "must be a version's id"),
        ({"secret": {"id": SECRET, "stge": "A"}}, ("secret", "stge"), "unknown key; did you mean stage?"),
        ({"secret": {"id": "orders/db"}}, ID, "must be a secret's whole ARN, without templates"),
        ({"secret": {"id": SECRET.replace("db", "{workflow}")}}, ID, "must be a secret's whole ARN, without templates"),
        ({"secret": {"id": SECRET.replace("db", "*")}}, ID, "must be a secret's whole ARN, without templates"),
        ({"secret": None, "parameter": {"name": "/{workflow}/x"}, "regions": ["eu-west-1"]}, NAME, "must be /its/name"),
        ({"secret": None, "parameter": {"name": "/a/*"}, "regions": ["eu-west-1"]}, NAME, "must be /its/name"),
        ({"secret": None, "parameter": {"name": "/a/x:3"}, "regions": ["eu-west-1"]}, NAME, "must be /its/name"),
        (
            {"secret": None, "parameter": {"name": "/a/b"}, "regions": ["r1"], "role_arn": "arn:aws:iam:::role/x"},
            (),
            "parameter: needs its ARN, since the role's ARN names no account",
        ),
    ],
)
def test_what_a_stored_value_may_not_have(changes: dict[str, Any], path: tuple[str, ...], message: str) -> None:
    ((found, said),) = static(**changes).items()
    assert said.startswith(message)
    assert found == path


def test_a_stored_value_is_static_and_used_in_its_region() -> None:
    assert SCOPE.revocability(STATIC) is Revocability.STATIC
    assert SCOPE.regions(STATIC) == ("eu-west-1",)
    assert SCOPE.longest_life(STATIC) is None
    for tier in Tier:
        assert SCOPE.completed(STATIC, tier) == STATIC


def test_a_chained_role_gives_an_hour_and_any_other_twelve() -> None:
    assert SCOPE.longest_life(GOOD) == timedelta(hours=12)
    assert SCOPE.longest_life({**GOOD, "via": "arn:aws:iam::123456789012:role/hub"}) == timedelta(hours=1)


@pytest.mark.parametrize(
    ("changes", "low", "higher"),
    [
        ({}, "bound", "deny"),
        ({"revoke": "deny"}, "deny", "deny"),
        ({"revoke": "bound"}, "bound", "bound"),
        ({"probe": {"call": "s3:ListBuckets"}}, "deny", "deny"),
        ({"when_full": "cutoff"}, "deny", "deny"),
    ],
)
def test_the_tier_says_how_a_session_ends_where_the_block_does_not(changes: Any, low: str, higher: str) -> None:
    for tier, revoke in ((Tier.LOW, low), (Tier.ELEVATED, higher), (Tier.HIGH, higher)):
        made = SCOPE.completed({**GOOD, **changes}, tier)
        assert made == {**GOOD, **changes, "revoke": revoke}
        assert list(SCOPE.validate(made)) == []


def test_powers_are_the_role_and_what_others_trust_or_are_ended_by() -> None:
    block = {
        **GOOD,
        "via": "arn:aws:iam::123456789012:role/hub",
        "policy_arns": ["arn:aws:iam::aws:policy/ReadOnlyAccess"],
        "session_tags": {"team": "data", "run": "{run}"},
        "source_identity": "lease",
        "when_full": "cutoff",
        "may_chain": True,
        "sts_endpoint": "https://sts.acme.internal",
        "endpoint_url": "https://s3.acme.internal",
        "external_id": "acme",
    }
    assert list(SCOPE.validate(block)) == []
    assert SCOPE.powers(block) == [
        "arn:aws:iam::123456789012:role/etl",
        "via:arn:aws:iam::123456789012:role/hub",
        "sts_endpoint:https://sts.acme.internal",
        "endpoint_url:https://s3.acme.internal",
        "may_chain:True",
        "when_full:cutoff",
        "source_identity:lease",
        "session_tag:team=data",
        "session_tag:run={run}",
    ]
    assert SCOPE.powers(GOOD) == ["arn:aws:iam::123456789012:role/etl"]
    assert SCOPE.powers(STATIC) == [STATIC["role_arn"], f"secret:{SECRET}"]
    parameter = {"role_arn": GOOD["role_arn"], "regions": ["eu-west-1"], "parameter": {"name": "/orders/{workflow}"}}
    assert SCOPE.powers(parameter)[1:] == ["parameter:arn:aws:ssm:eu-west-1:123456789012:parameter/orders/{workflow}"]


def test_every_key_is_described_to_editors() -> None:
    schema = SCOPE.json_schema()
    for found in (schema, *(schema["$defs"][name] for name in ("Probe", "Secret", "Parameter"))):
        assert all(key.get("description") for key in found["properties"].values())
    assert set(schema["properties"]) == set(AwsBlock.model_fields)


def test_what_is_kept_of_a_block_is_of_those_very_values() -> None:
    """Of equal ones of another type, and of one that was changed since, it is not."""
    params = {**GOOD, "may_chain": True}
    assert block_of(params) is block_of(dict(params))
    assert block_of({**params, "may_chain": 1}) is None  # 1 == True
    params["may_chain"] = False
    changed = block_of(params)
    assert changed is not None
    assert not changed.may_chain
    assert block_of({**GOOD, "role_arn": "nonsense"}) is None
    tagged = {**GOOD, "session_tags": {"a": "1"}}
    assert block_of({**tagged, "session_tags": MappingProxyType({"a": "1"})}) == block_of(tagged)
