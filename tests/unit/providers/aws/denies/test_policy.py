"""The text of a deny list: its size, and what is read back from it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.providers.aws.denies.policy import Cut, Held, deny_policy, entries_in, held_in, size_of
from tests.fakes.iam import lease

AT = datetime(2026, 11, 23, 10, 5, tzinfo=UTC)
CUT = Cut(before=AT, until=AT + timedelta(minutes=15))


def answer(text: str) -> dict[str, Any]:
    return {"PolicyDocument": json.loads(text)}


@given(
    numbers=st.sets(st.integers(0, 2000), max_size=500),
    minutes=st.integers(-1000, 1000),
    cut=st.sampled_from([None, CUT]),
)
def test_what_is_written_is_read_back_and_its_size_is_foretold(
    numbers: set[int], minutes: int, cut: Cut | None
) -> None:
    bound = AT + timedelta(minutes=minutes)
    entries = {lease(number): bound for number in numbers}
    if not entries and cut is None:
        return
    text = deny_policy(entries, cut)
    held = held_in(answer(text))
    ends = [bound for bound in (bound if entries else None, cut.until if cut else None) if bound]
    assert (held.names, held.cut, held.until) == (frozenset(entries), cut, max(ends))
    assert size_of(answer(text)) == len(text)
    if entries:
        assert entries_in(len(text), cut=cut is not None) == len(entries)
        assert entries_in(len(text) - 1, cut=cut is not None) == len(entries) - 1


@pytest.mark.parametrize("room", [-5000, 0, 100, 160])
def test_no_room_is_no_entry(room: int) -> None:
    assert entries_in(room) == entries_in(room, cut=True) == 0


def test_a_list_of_an_earlier_version_is_read() -> None:
    text = (
        '{"Version":"2012-10-17","Statement":[{"Sid":"until1795428300","Effect":"Deny","Action":"*","Resource":"*",'
        f'"Condition":{{"StringLike":{{"aws:userid":"*:{lease(1)}"}}}}}}]}}'
    )
    held = held_in({"PolicyDocument": text.replace('"', "%22")})  # URL-encoded, where botocore does not know the shape
    assert (held.names, held.until) == (frozenset({lease(1)}), datetime.fromtimestamp(1795428300, UTC))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Statement", "Sid", "Condition", "StringLike", "DateLessThan", "aws:userid", "Effect"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(document=JSON)
def test_whatever_others_wrote_is_read_without_error_and_never_ends(document: Any) -> None:
    held = held_in({"PolicyDocument": document})
    assert (held.names, held.cut, held.until) == (frozenset(), None, Held().until)
    size_of({"PolicyDocument": document})


@pytest.mark.parametrize(
    "change",
    [
        {"Effect": "Allow"},
        {"Action": "s3:*"},
        {"Resource": "arn:aws:s3:::lake"},
        {"Sid": "until17"},
        {"Condition": {"StringLike": {"aws:userid": [17, "*:short", "*"]}}},
        {"Condition": {}},
        # A deny that holds for some of what the session does only.
        {"Condition": {"StringLike": {"aws:userid": ["*:abcdefghij234567"]}, "Bool": {"aws:SecureTransport": "false"}}},
        {"Condition": {"StringLike": {"aws:userid": ["*:abcdefghij234567"], "aws:SourceVpc": "vpc-1"}}},
        {
            "Sid": "cut1795428300",
            "Condition": {
                "DateLessThan": {
                    "aws:TokenIssueTime": "2026-11-23T10:05:00Z",
                    "aws:CurrentTime": "2026-11-23T10:05:00Z",
                }
            },
        },
        {"Principal": {"AWS": "arn:aws:iam::123456789012:role/x"}},
    ],
)
def test_what_looks_like_a_list_of_ours_and_denies_less_names_nobody(change: dict[str, Any]) -> None:
    document = json.loads(deny_policy({lease(1): AT}))
    document["Statement"][0] |= change
    held = held_in({"PolicyDocument": document})
    assert (held.names, held.cut) == (frozenset(), None)


@pytest.mark.parametrize(
    ("issued", "bound", "covered"),
    [(-2, 0, True), (-1, 0, False), (0, 0, False), (-60, 15 * 60, True), (-60, 15 * 60 + 1, False)],
)
def test_a_cut_off_covers_what_was_issued_surely_before_it_and_ends_before_it_ends(
    issued: int, bound: int, *, covered: bool
) -> None:
    assert CUT.covers(AT + timedelta(seconds=issued), AT + timedelta(seconds=bound)) is covered
