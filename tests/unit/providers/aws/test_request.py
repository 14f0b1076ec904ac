"""What is asked of STS for one lease, and what is never sent."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from botocore.session import get_session
from botocore.validate import ParamValidator

from broker.policy.templates import fill
from broker.providers.aws.request import assume_role
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.base import MintRefused
from tests.unit.providers.aws.orders import BOUND, order
from tests.unit.providers.aws.scopes.test_kind import GOOD

VALUES = {"workflow": "nightly-etl", "run": "r42", "step": "load"}


def asked(life: float = 300, bound: datetime | None = None, values: Any = VALUES, **changes: Any) -> dict[str, Any]:
    """For a lease that has `life` seconds left."""
    block = AwsBlock.model_validate(fill({**GOOD, **changes}, values))
    return assume_role(block, order(), BOUND - timedelta(seconds=life), bound)


def test_the_session_is_named_after_its_lease_and_nothing_more_is_said_than_the_scope_says() -> None:
    assert asked().keys() == {"RoleArn", "RoleSessionName", "DurationSeconds", "Policy"}
    assert asked()["RoleSessionName"] == "o6frhlsxpvtenmth"


def test_everything_at_once_is_what_the_sdk_takes() -> None:
    request = asked(
        policy_arns=["arn:aws:iam::aws:policy/ReadOnlyAccess"],
        session_tags={"run": "{run}", "path": "{workflow}/{step}", "none": ""},
        transitive_tags=True,
        source_identity="{workflow}",
        external_id="acme-prod",
        may_chain=True,
    )
    shape = get_session().get_service_model("sts").operation_model("AssumeRole").input_shape
    assert shape is not None
    assert not ParamValidator().validate(request, shape).has_errors()
    assert request["Tags"] == [
        {"Key": "run", "Value": "r42"},
        {"Key": "path", "Value": "nightly-etl/load"},
        {"Key": "none", "Value": ""},
    ]
    assert request["TransitiveTagKeys"] == ["run", "path", "none"]
    assert request["SourceIdentity"] == "nightly-etl"
    assert request["ExternalId"] == "acme-prod"
    assert request["PolicyArns"] == [{"arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}]


def test_a_source_identity_can_be_the_lease() -> None:
    assert asked(source_identity="lease")["SourceIdentity"] == "o6frhlsxpvtenmth"


@pytest.mark.parametrize(
    ("life", "via", "seconds"),
    [
        (60, None, 900),
        (900, None, 900),
        (900.2, None, 901),
        (5000, None, 5000),
        (90_000, None, 43_200),
        (5000, "hub", 3600),
    ],
)
def test_the_duration_is_the_lease_s_within_what_sts_gives(life: float, via: str | None, seconds: int) -> None:
    assert asked(life, via=via and f"arn:aws:iam::123456789012:role/{via}")["DurationSeconds"] == seconds


def test_a_session_may_end_before_its_lease_and_never_after() -> None:
    def end(bound: datetime) -> str:
        (found,) = re.findall(r'"aws:CurrentTime":"([^"]+)"', asked(bound=bound)["Policy"])
        return str(found)

    assert end(BOUND - timedelta(seconds=240)) == "2026-11-23T10:01:00Z"
    assert end(BOUND + timedelta(hours=1)) == "2026-11-23T10:05:00Z"


def refusal(**changes: Any) -> str:
    with pytest.raises(MintRefused) as refused:
        asked(**changes)
    assert refused.value.__cause__ is None
    return str(refused.value)


def test_what_does_not_fit_once_filled_is_not_sent() -> None:
    assert refusal(life=0) == "the lease is past its bound"
    assert refusal(bound=BOUND - timedelta(hours=1)) == "the lease is past its bound"
    assert "source identity" in refusal(source_identity="{run}", values={**VALUES, "run": "7"})
    assert "template" in refusal(values={})
    assert "tag" in refusal(session_tags={"a": "{other}"})
    assert "source identity" in refusal(source_identity="{other}")
    long = {**VALUES, "workflow": "w" * 64}
    assert "tag" in refusal(session_tags={"a": "/".join(["{workflow}"] * 4)}, values=long)


def test_a_policy_that_is_too_long_is_refused_in_numbers() -> None:
    wide = [
        {
            "Effect": "Allow",
            "Action": "s3:GetObject",
            "Resource": [f"arn:aws:s3:::{{workflow}}/{n:040}" for n in range(33)],
        }
    ]
    said = refusal(statements=wide, values={**VALUES, "workflow": "w" * 64})
    assert re.fullmatch(
        r"the session policy has \d,\d{3} characters, [\d,]+ more than AWS takes; statement 1 is the longest, with about [\d,]+",
        said,
    )
    assert "www" not in said


def test_managed_policies_count_as_aws_counts_them() -> None:
    arns = [f"arn:aws:iam::123456789012:policy/{'p' * 100}{n}" for n in range(10)]
    few = json.loads(asked(policy_arns=arns[:2])["Policy"])
    assert few["Version"] == "2012-10-17"
    pad = [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::" + "b" * 500}]
    assert "more than AWS takes" in refusal(policy_arns=arns, statements=pad)
    assert asked(statements=pad)
