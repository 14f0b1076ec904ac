"""What agents are told of a session is what is sent for it, and nothing of how the broker comes by it."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given

from broker.model import Powers
from broker.policy.templates import fill
from broker.providers.aws.request import assume_role
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.kind import AwsScope
from broker.providers.base import MintRefused
from tests.unit.providers.aws.orders import BOUND, LIFE, order
from tests.unit.providers.aws.scopes.test_compiled import BLOCKS, QUICK
from tests.unit.providers.aws.scopes.test_kind import GOOD

NOW = BOUND - LIFE
LATER = BOUND + timedelta(minutes=7)
VALUES = {"workflow": "nightly-etl", "run": "r42", "step": "load"}


def told(**changes: Any) -> Powers:
    return AwsScope().describe(fill({**GOOD, **changes}, VALUES), now=NOW, until=BOUND)


def same_but_for_the_bound(shown: Any, sent: str) -> bool:
    """The policy as it is shown, and another one that is sent later."""
    made = json.loads(sent)
    condition = made["Statement"][-1]["Condition"]["DateGreaterThan"]
    condition["aws:CurrentTime"] = f"{BOUND:%Y-%m-%dT%H:%M:%SZ}"
    return bool(shown == made)


@given(statements=BLOCKS)
@QUICK
def test_the_policy_shown_is_the_one_sent_but_for_its_bound(statements: Any) -> None:
    for changes in ({}, {"regions": [], "any_region": True}, {"may_chain": True}):
        params = {**GOOD, "statements": statements, **changes}
        shown = AwsScope().describe(params, now=NOW, until=BOUND)
        later = order(LATER), NOW + timedelta(minutes=7)
        if shown.refused:
            with pytest.raises(MintRefused, match=re.escape(shown.refused)):
                assume_role(AwsBlock.model_validate(params), *later)
            continue
        sent = assume_role(AwsBlock.model_validate(params), *later)
        assert same_but_for_the_bound(shown.told["session_policy"], sent["Policy"])


def test_the_comparison_sees_one_deny_less() -> None:
    shown = told().told["session_policy"]
    sent = assume_role(AwsBlock.model_validate(fill(GOOD, VALUES)), order(LATER), NOW)["Policy"]
    assert same_but_for_the_bound(shown, sent)
    for missing in range(len(shown["Statement"]) - 1):
        less = [one for at, one in enumerate(shown["Statement"]) if at != missing]
        assert not same_but_for_the_bound({**shown, "Statement": less}, sent)


def test_a_session_in_full() -> None:
    statement = {"Effect": "Allow", "Action": ["s3:PutObject"], "Resource": "arn:aws:s3:::lake/{workflow}/*"}
    shown = told(
        statements=[statement],
        policy_arns=["arn:aws:iam::aws:policy/ReadOnlyAccess"],
        session_tags={"run": "{run}"},
        transitive_tags=True,
        source_identity="lease",
        endpoint_url="https://s3.acme.internal",
    )
    assert shown.words == (
        "may: s3:PutObject on arn:aws:s3:::lake/nightly-etl/*",
        "may: also what these policies allow: arn:aws:iam::aws:policy/ReadOnlyAccess",
        "never more than the role itself allows, which is said in AWS",
        "only in eu-west-1",
        "may not assume other roles, nor make sessions or tokens in any other way",
    )
    outside = {"StringNotEquals": {"aws:RequestedRegion": "eu-west-1"}}
    over = {"DateGreaterThan": {"aws:CurrentTime": "2026-11-23T10:05:00Z"}}
    assert shown.told == {
        "kind": "session",
        "role_arn": "arn:aws:iam::123456789012:role/etl",
        "session_name": "the lease's id",
        "regions": ["eu-west-1"],
        "session_policy": {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::lake/nightly-etl/*"},
                {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": outside},
                {"Effect": "Deny", "Action": ["sts:Assume*", "sts:Get*Token"], "Resource": "*"},
                {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": over},
            ],
        },
        "policy_arns": ["arn:aws:iam::aws:policy/ReadOnlyAccess"],
        "session_tags": {"run": "r42"},
        "transitive_tags": ["run"],
        "may_chain": False,
        "source_identity": "the lease's id",
        "endpoint_url": "https://s3.acme.internal",
    }


def test_how_the_broker_comes_by_it_is_not_told() -> None:
    shown = told(
        via="arn:aws:iam::123456789012:role/hidden-hub",
        external_id="hidden-id",
        via_external_id="hidden-other-id",
        sts_endpoint="https://hidden-sts.acme.internal",
        sts_region="eu-north-1",
        when_full="cutoff",
        probe={"call": "s3:ListObjectsV2", "with": {"Bucket": "hidden-bucket"}},
    )
    assert shown.told
    text = json.dumps([shown.words, shown.told])
    assert not [word for word in ("hidden", "eu-north-1", "cutoff", "probe") if word in text]


STATIC = {"regions": ["eu-west-1"], "statements": None}


@pytest.mark.parametrize(
    ("changes", "words", "kind"),
    [
        (
            {"secret": {"id": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-a1b2c3"}},
            "the value of secret arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-a1b2c3 (stage AWSCURRENT)",
            "secret",
        ),
        (
            {"parameter": {"name": "/etl/{workflow}/key", "version": 3}},
            "the value of parameter arn:aws:ssm:eu-west-1:123456789012:parameter/etl/nightly-etl/key (version 3)",
            "parameter",
        ),
        (
            {"parameter": {"name": "/etl/key"}},
            "the value of parameter arn:aws:ssm:eu-west-1:123456789012:parameter/etl/key (the latest)",
            "parameter",
        ),
    ],
)
def test_of_a_value_it_is_told_which_and_not_as_whom_it_is_read(changes: dict[str, Any], words: str, kind: str) -> None:
    block = {name: value for name, value in {**GOOD, **STATIC, **changes}.items() if value is not None}
    shown = AwsScope().describe(fill(block, VALUES), now=NOW, until=BOUND)
    assert shown.words == (f"{words}, read by the broker; no session",)
    assert shown.told["kind"] == kind
    assert "role" not in json.dumps(shown.told)


def test_many_words_are_cut_and_the_policy_is_whole() -> None:
    many = [{"Effect": "Allow", "Action": f"s3:Get{n}", "Resource": "*"} for n in range(12)]
    shown = told(statements=many)
    assert len([word for word in shown.words if word.startswith("may: ")]) == 10
    assert "and what 2 more statements of the policy say" in shown.words
    assert len(shown.told["session_policy"]["Statement"]) == 15
    long: dict[str, Any] = {
        "Effect": "Deny",
        "NotAction": [f"s3:Get{n}" for n in range(7)],
        "NotResource": "arn:aws:s3:::a",
    }
    long["Condition"] = {"Bool": {"aws:SecureTransport": True}}
    assert told(statements=[*GOOD["statements"], long]).words[1] == (
        "may not: everything but s3:Get0, s3:Get1, s3:Get2, s3:Get3, s3:Get4 and 2 more "
        "on everything but arn:aws:s3:::a, under the statement's conditions"
    )


def test_what_cannot_be_minted_says_why() -> None:
    many = [{"Effect": "Allow", "Action": f"s3:Get{n}", "Resource": "arn:aws:s3:::lake/*"} for n in range(60)]
    assert told(statements=many).refused.startswith("the session policy has ")
    assert AwsScope().describe(GOOD, now=NOW, until=BOUND).refused == (
        "a template of the scope's aws block was not filled"
    )
    assert AwsScope().describe({**GOOD, "role_arn": 1}, now=NOW, until=BOUND).refused == (
        "the scope's aws block, filled, is not valid"
    )
    assert AwsScope().describe(fill(GOOD, VALUES), now=NOW, until=NOW).refused == "the lease is past its bound"


def test_regions_and_chaining_in_words() -> None:
    anywhere = told(regions=[], any_region=True, may_chain=True)
    assert anywhere.words[-2:] == (
        "in any region",
        "may assume other roles; sessions made so live on when this one is ended",
    )
    iam = [{"Effect": "Allow", "Action": "iam:GetRole", "Resource": "*"}]
    assert "only in eu-west-1 (iam: anywhere)" in told(statements=iam).words
