"""Policies as the server reads them (each rule was measured), and nothing guessed."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.providers.vault.policies import Unreadable, covers, differences, meet, parse


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("", {}),
        ("# nothing", {}),
        ('path "a/*" { capabilities = ["read", "list",] }', {"a/*": {"read", "list"}}),
        ('path "/a" {\n  capabilities = ["read"] # why\n}\n// x\n/* path "b" { } */', {"a": {"read"}}),
        ('path "a#b" { capabilities = ["read"] }', {"a#b": {"read"}}),
        ('"path" "a" { "capabilities" = ["read"] }', {"a": {"read"}}),
        ('path "\\u0061" { capabilities = ["read"] }', {"a": {"read"}}),
        ('path "a" { capabilities = ["read"] capabilities = ["update"] }', {"a": {"read", "update"}}),
        ('path "a" { capabilities = ["read"] }\npath "a" { capabilities = ["list"] }', {"a": {"read", "list"}}),
        ('path "a" { capabilities = ["deny"] }\npath "a" { capabilities = ["list"] }', {"a": {"deny"}}),
        ('path "a" { policy = "read" }', {"a": {"read", "list"}}),
        ('name = "x"\npath "a" { }', {"a": set()}),
        ('{"path": {"a": {"capabilities": ["read"]}}}', {"a": {"read"}}),
        ('{"path": [{"a": {"capabilities": ["read"]}}, {"a": {"policy": "deny"}}]}', {"a": {"deny"}}),
    ],
)
def test_what_a_policy_gives(text: str, rules: dict[str, set[str]]) -> None:
    assert parse(text) == rules


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('path "a" { capabilities = ["read"] allowed_parameters = { "x" = [] } }', "uses allowed_parameters"),
        ('path "a" { capabilities = ["read"] expiration = "2020-01-01T00:00:00Z" }', "uses expiration"),
        ('path "a" { capabilities = ["list"] pagination_limit = 1 }', "uses pagination_limit"),
        ('path "a" "b" { }', "uses path"),
        ('path "a" { capabilities = ["read"]', "more than paths"),
        ('path "${a}" { capabilities = ["read"] }', "not plain"),
        ('path "a" { capabilities = <<E\nread\nE\n }', "more than paths"),
        ('rule "a" { }', "uses rule"),
        ('path "a"', "uses path"),
        ('{"path": {"a": {"capabilities": ["read"]}, "a": {"capabilities": ["update"]}}}', "a key twice"),
        ('{"path": {"a": {"capabilities": ["read"], "max_wrapping_ttl": "1m"}}}', "uses max_wrapping_ttl"),
        ('{"path": ["a"]}', "no policy in JSON"),
        ("{", "no policy in JSON"),
    ],
)
def test_what_is_not_understood_is_not_guessed(text: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        parse(text)


@given(st.text(alphabet='path {}[]="ab,\n#/*\\', max_size=40))
def test_any_text_is_a_policy_or_unreadable(text: str) -> None:
    with contextlib.suppress(Unreadable):
        assert isinstance(parse(text), dict)


def test_a_deny_is_a_difference_only_where_something_is_needed() -> None:
    need = {"a": frozenset({"read"})}
    deny = frozenset({"deny"})
    assert list(differences(need, {**need, "b": deny})) == []
    assert list(differences(need, {"a": deny})) == ["needs read on a"]


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("a/b", "a", False),
        ("a/*", "a/b/c", True),
        ("a/*", "a", False),
        ("a*", "ab/c", True),
        ("a/b*", "a/*", True),
        ("a/b*", "a/c*", False),
        ("+/creds/*", "database/creds/x", True),
        ("+/creds/*", "secret/data/*", False),
        ("+/creds/*", "database/*", True),
        ("a/+/c", "a/b/+", True),
        ("a/+", "a/b/c", False),
        ("*", "a/b", True),
        ("a/+", "a/*", True),
    ],
)
def test_patterns_that_meet(one: str, other: str, both: bool) -> None:  # noqa: FBT001
    assert meet(one, other) == meet(other, one) == both


def test_only_a_last_star_covers() -> None:
    assert covers("a/*", "a/b/*")
    assert covers("a/+/c", "a/+/c")
    assert not covers("a/+/c", "a/b/c")  # said as too much rather than too little
    assert not covers("a/b", "a/*")
