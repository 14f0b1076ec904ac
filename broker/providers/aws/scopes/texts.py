"""Types of the texts in an `aws` block: where AWS takes a text or a list, one shape inside; patterns for editors, too."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from broker.model import JsonValue

# Ceph writes no account: arn:aws:iam:::role/x (measured). Names and paths as IAM limits them.
_IAM = r"^arn:aws(-[a-z]+)*:iam::"
_NAMED = r"/([A-Za-z0-9_+=,.@/-]{1,510}/)?[A-Za-z0-9_+=,.@-]"
ROLE_ARN = _IAM + r"([0-9]{12})?:role" + _NAMED + r"{1,64}$"
POLICY_ARN = _IAM + r"([0-9]{12}|aws)?:policy" + _NAMED + r"{1,128}$"
REGION = r"^[a-z][a-z0-9-]{1,31}$"
# Plain http carries the minted secret in clear: on the machine itself only.
_URL = r"^(https://[A-Za-z0-9.-]+(:[0-9]{1,5})?|http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?)/?$"

UNFILLED = re.compile(r"(?<!\$)\{[A-Za-z_][A-Za-z0-9_]*\}")  # a template; `${…}` is AWS's own
SHORTEST = "x"  # what does not fit with these never does
LONGEST = "x" * 64  # of a template, DESIGN section 8

RoleArn: TypeAlias = Annotated[str, Field(pattern=ROLE_ARN)]
Region: TypeAlias = Annotated[str, Field(pattern=REGION)]
Url: TypeAlias = Annotated[str, Field(pattern=_URL)]


def listed(value: JsonValue) -> JsonValue:
    """AWS takes a text where it takes a list. One shape inside, so that a mistake gives one error."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _filled(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("must not be empty")
    return value


def one_or_more(item: JsonValue, *, least: int = 1) -> WithJsonSchema:
    """For editors: a text stands for a list of one."""
    return WithJsonSchema({"anyOf": [item, {"type": "array", "items": item, "minItems": least}]})


LISTED = BeforeValidator(listed)
FILLED = AfterValidator(_filled)


def matching(pattern: str, *, least: int = 1) -> WithJsonSchema:
    """For editors: one or more texts of this pattern."""
    return one_or_more({"type": "string", "pattern": pattern}, least=least)


Regions: TypeAlias = Annotated[tuple[Region, ...], LISTED, matching(REGION, least=0)]
PolicyArns: TypeAlias = Annotated[
    tuple[Annotated[str, Field(pattern=POLICY_ARN)], ...], LISTED, Field(max_length=10), matching(POLICY_ARN, least=0)
]


def partition_of(region: str) -> str:
    """By the region's name; an unknown one is of `aws`, as stores like Ceph have them."""
    for start, partition in _PARTITIONS.items():
        if region.startswith(start):
            return partition
    return "aws"


_PARTITIONS = {
    "cn-": "aws-cn",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "us-isof-": "aws-iso-f",
    "eu-isoe-": "aws-iso-e",
    "eusc-": "aws-eusc",
}
