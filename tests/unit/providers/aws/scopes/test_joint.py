"""What scopes of one role do to each other."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from broker.model import NamedBlock, Remark
from broker.providers.aws.scopes.kind import AwsScope
from tests.unit.providers.aws.scopes.test_kind import GOOD

OTHER = "arn:aws:iam::123456789012:role/other"


def together(**scopes: tuple[int, dict[str, Any]]) -> list[tuple[str, Remark]]:
    """name=(minutes of ttl, changes of the block)."""
    blocks = [
        NamedBlock(scope=name, block={**GOOD, "revoke": "deny", **changes}, ttl=timedelta(minutes=ttl))
        for name, (ttl, changes) in scopes.items()
    ]
    assert all(AwsScope().validate(one.block) == [] for one in blocks)
    return list(AwsScope().joint_warnings(blocks))


def test_each_role_is_told_what_it_can_carry_at_its_first_scope() -> None:
    found = together(a=(5, {}), b=(60, {}), c=(10, {"role_arn": OTHER}), d=(5, {"revoke": "bound"}))
    assert [(where, one.rule, one.note) for where, one in found] == [("a", "step-ends", True), ("c", "step-ends", True)]
    said = [one.message for _, one in found]
    assert said[0].endswith(
        "role/etl has room to end 480 sessions early, at most: sustained, 96 of a or 8.0 of b a minute"
    )
    assert said[1].endswith("role/other has room to end 480 sessions early, at most: sustained, 48 of c a minute")


def test_where_nothing_is_ended_early_nothing_is_told() -> None:
    assert together(a=(5, {"revoke": "bound"})) == []
    assert together(a=(5, {"when_full": "cutoff"}), b=(5, {"when_full": "cutoff"})) == []
    stored = {"role_arn": GOOD["role_arn"], "regions": ["eu-west-1"], "parameter": {"name": "/a/b"}}
    assert list(AwsScope().joint_warnings([NamedBlock(scope="s", block=stored, ttl=timedelta(minutes=5))])) == []


def test_a_cut_off_that_ends_what_another_scope_promised_is_told() -> None:
    found = together(a=(5, {"when_full": "cutoff"}), b=(5, {"revoke": "bound"}), c=(5, {"role_arn": OTHER}))
    (cut,) = [(where, one) for where, one in found if one.rule == "shared-cutoff"]
    assert cut[0] == "a"
    assert cut[1].path == ("when_full",)
    assert not cut[1].note
    assert "ends the sessions of b as well" in cut[1].message


def test_a_role_that_is_reached_in_two_ways_is_told() -> None:
    """Its policies have one writer: whoever's session is ended first in an epoch decides how it goes there."""
    via = {"via": "arn:aws:iam::123456789012:role/hub"}
    found = [(where, one) for where, one in together(a=(5, {}), b=(5, via), c=(5, via)) if one.rule == "two-ways"]
    ((where, one),) = found
    assert where == "b"
    assert "a and b" in one.message
    alike = together(a=(5, via), b=(5, via), c=(5, {"revoke": "bound"}))
    assert [one for _, one in alike if one.rule == "two-ways"] == []
