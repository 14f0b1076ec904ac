from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model import NAME, LeaseState, RuleRef

# Airflow's, Argo's, Tekton's and GitHub's own spellings must fit without folding.
GOOD = [
    "a",
    "7",
    "nightly-etl",
    "scheduled__2026-11-22T00:00:00+00:00",
    "manual__2026-11-22T10:15:30.123456+00:00",
    "etl-x7k2p-1837465",
    "refs=main@4",
    "a" * 250,
]
BAD = [
    "",
    "a" * 251,
    "name\n",  # `$` and match() would let it pass: one more spelling, one more budget
    "\nname",
    " name",
    "name ",
    "na me",
    "-rf",
    ".",
    "..",
    ".hidden",
    "_private",
    "a/b",
    "../../sys/seal",
    "a%2fb",
    "a\\b",
    "a\0b",
    "a*",
    "{run}",
    "näme",
    "\uff4eame",  # full-width: NFKC would fold it to "name"
    "\u0661",  # a digit for \d, not here
]


@pytest.mark.parametrize("name", GOOD)
def test_schedulers_names_fit(name: str) -> None:
    assert NAME.fullmatch(name)


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_other_spellings_are_rejected(name: str) -> None:
    assert NAME.fullmatch(name) is None


@given(st.text(max_size=8))
def test_a_name_is_ascii_without_blanks_or_separators(text: str) -> None:
    if NAME.fullmatch(text):
        assert text == text.strip()
        assert text.isascii()
        assert text[0].isalnum()
        assert not set(text) & set("/\\*{}%,;'\"\n\0")


def test_exactly_the_dead_states_are_terminal() -> None:
    terminal = {state for state in LeaseState if state.terminal}
    assert terminal == {LeaseState.REVOKED, LeaseState.EXPIRED, LeaseState.VOID}


def test_domain_objects_are_frozen_and_a_rule_says_where_it_stands() -> None:
    rule = RuleRef(name="nightly-load", file="scopes.yaml", line=31)
    assert str(rule) == "nightly-load (scopes.yaml:31:1)"
    with pytest.raises(FrozenInstanceError):
        rule.line = 1  # type: ignore[misc]  # that is the point
