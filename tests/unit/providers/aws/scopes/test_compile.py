"""Golden files: golden/NAME.yaml is an operator's block, golden/NAME.json the AssumeRole made of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from broker.model import JsonValue
from broker.policy.templates import fill
from broker.providers.aws.request import assume_role
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.compile import PolicyTooLargeError, session_policy
from broker.providers.aws.scopes.kind import AwsScope
from tests.unit.providers.aws.orders import order

GOLDEN = Path(__file__).parent / "golden"
BOUND = datetime(2026, 11, 23, 10, 5, tzinfo=UTC)
VALUES = {"workflow": "nightly-etl", "run": "r42", "step": "load"}


def block(**changes: Any) -> AwsBlock:
    good = {
        "role_arn": "arn:aws:iam::123456789012:role/etl",
        "regions": ["eu-west-1"],
        "statements": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::lake/*"}],
    }
    return AwsBlock.model_validate({**good, **changes})


def statements(policy: str) -> list[dict[str, Any]]:
    held: list[dict[str, Any]] = json.loads(policy)["Statement"]
    return held


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.yaml")))
def test_compiles_to_the_golden_request(name: str) -> None:
    """The keys of AssumeRole, in the policy's place what it says; written anew with GOLDEN_WRITE=1."""
    scope = YAML(typ="safe").load((GOLDEN / f"{name}.yaml").read_text())
    assert list(AwsScope().validate(scope)) == []
    jsonschema.validate(scope, AwsScope().json_schema(), jsonschema.Draft202012Validator)
    filled = AwsBlock.model_validate(fill(scope, VALUES))
    request = assume_role(filled, order(), BOUND - timedelta(minutes=5))
    found = pretty(request | {"Policy": json.loads(request["Policy"])})
    golden = GOLDEN / f"{name}.json"
    if os.environ.get("GOLDEN_WRITE"):
        golden.write_text(found)
    assert found == golden.read_text()


def pretty(request: Mapping[str, JsonValue]) -> str:
    """A line for each key, and for each statement."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in request.items() if key != "Policy"]
    policy = request["Policy"]
    each = ",\n".join(f"      {json.dumps(one)}" for one in policy["Statement"])
    lines.append(
        f'  "Policy": {{\n    "Version": {json.dumps(policy["Version"])},\n    "Statement": [\n{each}\n    ]\n  }}'
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


@pytest.mark.parametrize("changes", [{}, {"may_chain": True}, {"regions": [], "any_region": True}])
def test_always_ends_in_a_deny_of_everything_after_the_bound(changes: dict[str, Any]) -> None:
    last = statements(session_policy(block(**changes), BOUND))[-1]
    assert last == {
        "Effect": "Deny",
        "Action": "*",
        "Resource": "*",
        "Condition": {"DateGreaterThan": {"aws:CurrentTime": "2026-11-23T10:05:00Z"}},
    }


def test_bound_is_written_in_utc_and_never_rounded_up() -> None:
    east = timezone(timedelta(hours=5, minutes=30))
    at = datetime(2026, 11, 23, 15, 35, 59, 999_999, tzinfo=east)
    assert '"2026-11-23T10:05:59Z"' in session_policy(block(), at)


def test_is_compact() -> None:
    assert " " not in session_policy(block(), BOUND)


@pytest.mark.parametrize("action", ["sts:*", "*", "STS:AssumeRole"])
def test_no_spelling_of_an_allow_opens_further_sessions(action: str) -> None:
    allow = [{"Effect": "Allow", "Action": action, "Resource": "*"}]
    denies = [each for each in statements(session_policy(block(statements=allow), BOUND)) if each["Effect"] == "Deny"]
    assert {"Effect": "Deny", "Action": ["sts:Assume*", "sts:Get*Token"], "Resource": "*"} in denies


def test_a_global_service_is_exempt_from_the_region_only_when_an_allow_names_it() -> None:
    def exempt(effect: str, action: str) -> Any:
        extra = [{"Effect": effect, "Action": action, "Resource": "*"}]
        good = block().model_dump(exclude_none=True)["statements"]
        return statements(session_policy(block(statements=[*good, *extra]), BOUND))[2].get("NotAction")

    assert exempt("Allow", "iam:GetRole") == "iam:*"
    assert exempt("Allow", "IAM:GetRole") == "iam:*"
    assert exempt("Allow", "*") is None
    assert exempt("Deny", "iam:*") is None
    assert exempt("Allow", "s3:*") is None


def test_a_policy_over_2048_characters_is_refused_with_numbers_and_without_the_policy() -> None:
    many = [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": [f"arn:aws:s3:::lake/{n:060}/*" for n in range(25)]}
    ]
    with pytest.raises(PolicyTooLargeError, match=r"has 2,\d\d\d characters, \d+ more than AWS takes") as error:
        session_policy(block(statements=many), BOUND)
    assert "lake" not in str(error.value)


def test_exactly_2048_characters_fit() -> None:
    def sized(length: int) -> AwsBlock:
        return block(statements=[{"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::" + "b" * length}])

    base = len(session_policy(sized(1), BOUND))
    assert len(session_policy(sized(2048 - base + 1), BOUND)) == 2048
    with pytest.raises(PolicyTooLargeError):
        session_policy(sized(2048 - base + 2), BOUND)
