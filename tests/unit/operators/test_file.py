"""The operators file: everything right in it is kept, everything wrong is said, with its place."""

from __future__ import annotations

import json
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.operators.file import MOST_OPERATORS, OperatorsFile, read_operators
from broker.operators.model import Role
from broker.operators.sealing import SealingKey
from broker.policy.problems import ScopeMapError
from tests.unit.operators.people import KEY, SECRET, sealed_for

DOMAIN = "test.acme"


def read(
    text: str, *, sealing: SealingKey | None = KEY, keys: tuple[str, ...] = ("ann-2026", "bob-2026")
) -> OperatorsFile:
    raw = textwrap.dedent(text).encode()
    return read_operators(raw, "operators.yaml", trust_domain=DOMAIN, keys=keys, sealing=sealing)


def mistakes(text: str, *, sealing: SealingKey | None = KEY) -> list[str]:
    with pytest.raises(ScopeMapError) as caught:
        read(text, sealing=sealing)
    return [str(problem).removeprefix("operators.yaml:") for problem in caught.value.problems]


GOOD = f"""\
version: 1
operators:
  ann:
    ids: ["spiffe://test.acme/operator/ann", "spiffe://test.acme/operator/ann-phone"]
    roles: [responder, approver]
    groups: [data-platform]
    keys: [ann-2026]
    second_factor: {{revision: 3, sealed: "{sealed_for("ann", 3).text}"}}
    description: On call in even weeks.
  bob: {{ids: ["spiffe://test.acme/operator/bob"], roles: [admin]}}
  cid: {{ids: ["spiffe://test.acme/operator/cid"], roles: []}}
"""


def test_what_stands_there_is_who_they_are() -> None:
    found = read(GOOD)
    ann = found.of("spiffe://test.acme/operator/ann-phone")
    assert ann is found.operators["ann"] is found.owner_of_key("ann-2026")
    assert ann is not None
    assert ann.roles == {Role.RESPONDER, Role.APPROVER}
    assert ann.groups == {"data-platform"}
    assert ann.second_factor is not None
    assert KEY.open("ann", ann.second_factor).reveal() == SECRET
    assert found.of("spiffe://test.acme/operator/Ann") is None
    assert found.owner_of_key("bob-2026") is None
    assert found.operators["cid"].has(Role.VIEWER)
    assert len(found.digest) == 64


def test_who_signed_is_told_apart_from_who_may_approve() -> None:
    signers = read(GOOD).signers({"ann-2026", "bob-2026"}, may_approve=False)
    assert signers.keys == {"ann-2026", "bob-2026"}
    assert signers.owners == {"ann-2026": "ann"}
    assert not signers.may_approve


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["1:1: "]),
        ("[]", ["1:1: expected a mapping, found a list"]),
        ("version: 2\noperators: {}", ["1:10: "]),
        ("version: 1", ["1:1: 'operators' is missing"]),
        ("version: 1\noperators: {}\npeople: {}", ["3:1: unknown key 'people'"]),
        (
            """\
            version: 1
            operators:
              ann: {ids: ["spiffe://test.acme/o/ann"], roles: [approver, boss], rolles: []}
              "b b": {ids: []}
              "group:x": {ids: ["spiffe://other.acme/o/x"]}
              eve: {ids: ["SPIFFE://test.acme/o/eve", "spiffe://test.acme/o/ann", "spiffe://test.acme/o/%65"]}
            """,
            [
                "3:62: a role is one of viewer, responder, approver, admin",
                "3:69: unknown key 'rolles'; did you mean 'roles'?",
                "4:3: not a name",
                "4:16: names no SPIFFE ID",
                "5:3: not a name",
                "5:21: of another trust domain; operators are of 'test.acme'",
                "6:15: not a workload's SPIFFE ID",
                "6:71: not a workload's SPIFFE ID",
            ],
        ),
        (
            """\
            version: 1
            operators:
              ann: {ids: ["spiffe://test.acme/o/ann"], keys: [ann-2026, ann-2062]}
              bob: {ids: ["spiffe://test.acme/o/ann"], keys: [ann-2026], groups: [a, "group:a", a]}
              Bob: {ids: ["spiffe://test.acme/o/b", "spiffe://test.acme/o/b"]}
            """,
            [
                "3:61: [scopes.keys] has no key 'ann-2062'; did you mean 'ann-2026'?",
                "4:15: this id is of operator 'ann' too; each has its own",
                "4:51: this key is of operator 'ann' too; each has its own",
                "4:70: an entry is listed twice",
                "4:74: not a name: letters, digits and . _ @ + -, at most 64; without 'group:'",
                "5:3: this name is of operator 'bob' too; each has its own",
                "5:41: this id is listed twice",
            ],
        ),
        (
            "version: 1\noperators:\n  ann: {ids: [a], second_factor: {revision: 0, sealed: 1, secret: x}}",
            ["3:45: between 1 and 1000000", "3:56: expected text, found a number; put it in quotes", "3:59: unknown key 'secret'"],
        ),
        ("version: 1\noperators:\n  ann: &a {ids: []}\n  bob: *a", ["3:8: anchors and aliases"]),
        ("version: 1\noperators:\n  ann: {}\n  ann: {}", ["4:3: duplicate key 'ann'"]),
    ],
)  # fmt: skip
def test_every_mistake_is_said_at_its_place(text: str, said: list[str]) -> None:
    found = mistakes(text)
    assert len(found) == len(said), found
    for line, start in zip(found, said, strict=True):
        assert line.startswith(start), found


def with_factor(revision: int, sealed: str) -> str:
    return (
        "version: 1\noperators:\n  ann:\n    ids: ['spiffe://test.acme/o/ann']\n"
        f"    second_factor: {{revision: {revision}, sealed: '{sealed}'}}\n"
    )


@pytest.mark.parametrize(
    ("revision", "sealed"),
    [
        (1, sealed_for("bob").text),  # another operator's
        (2, sealed_for("ann", 1).text),  # another revision's
        (1, SECRET),
        (1, ""),
        (1, sealed_for("ann").text[:-4]),
        (1, SealingKey(bytes(32)).seal("ann", 1, KEY.open("ann", sealed_for("ann"))).text),  # another key's
    ],
    ids=["of another operator", "of another revision", "in clear", "empty", "cut", "under another key"],
)
def test_a_secret_that_does_not_open_is_told_by_its_operator_and_never_shown(revision: int, sealed: str) -> None:
    (line,) = mistakes(with_factor(revision, sealed))
    assert "of operator 'ann': was not sealed for this operator and revision" in line
    assert not sealed or sealed not in line


def test_without_the_key_a_second_factor_is_a_mistake() -> None:
    (line,) = mistakes(with_factor(1, sealed_for("ann").text), sealing=None)
    assert line == "5:5: there is no operators.second_factor_key_file to open it with"


def test_only_a_tool_does_without_opening() -> None:
    raw = with_factor(1, "whatever").encode()
    assert read_operators(raw, "f", opens=False).operators["ann"].second_factor is not None


def test_a_file_is_bounded() -> None:
    many = "".join(f"  o{n}: {{ids: ['spiffe://test.acme/o/{n}']}}\n" for n in range(MOST_OPERATORS + 1))
    (line,) = mistakes(f"version: 1\noperators:\n{many}")
    assert line.endswith("more than 1000 operators")
    (line,) = mistakes(f"version: 1\noperators: {{ann: {{ids: [{'a, ' * 101}]}}}}")
    assert line.endswith("more than 100")
    assert mistakes("version: 1\noperators: " + "[" * 40 + "]" * 40)
    assert mistakes("# " + "x" * (1 << 20))


def taken(raw: bytes) -> OperatorsFile | None:
    """None: refused, with mistakes that have a place."""
    try:
        return read_operators(raw, "f", trust_domain=DOMAIN, keys=("ann-2026", "bob-2026"), sealing=KEY)
    except ScopeMapError as error:
        if not error.problems or any(problem.line < 1 or problem.column < 1 for problem in error.problems):
            raise
        return None


NAMES = st.sampled_from(["ann", "Ann", "bob", "b.b", "x y"])
ENTRIES = st.fixed_dictionaries(
    {"ids": st.lists(st.sampled_from(["spiffe://test.acme/o/1", "spiffe://test.acme/o/2", "no"]), max_size=3)},
    optional={
        "roles": st.lists(st.sampled_from([*(role.value for role in Role), "boss", 1]), max_size=3),
        "groups": st.lists(st.sampled_from(["g", "group:g"]), max_size=2),
        "keys": st.lists(st.sampled_from(["ann-2026", "bob-2026", "x"]), max_size=2),
        "other": st.none(),
    },
)


@given(st.dictionaries(NAMES, ENTRIES, max_size=4))
def test_what_is_taken_names_each_id_key_and_name_once(entries: dict[str, dict[str, object]]) -> None:
    found = taken(json.dumps({"version": 1, "operators": entries}).encode())
    if found is None:
        return
    ids = [one for entry in found.operators.values() for one in entry.ids]
    keys = [one for entry in found.operators.values() for one in entry.keys]
    assert len(ids) == len(set(ids)) == len(found.by_id)
    assert len(keys) == len(set(keys)) == len(found.by_key)
    assert len({name.casefold() for name in found.operators}) == len(entries)
    assert all("other" not in entry and entry["ids"] for entry in entries.values())


@given(st.binary(max_size=300))
def test_whatever_is_read_ends_in_an_answer(raw: bytes) -> None:
    found = taken(raw)
    assert found is None or found.operators == {}
