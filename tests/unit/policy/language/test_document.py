"""Whatever the bytes, reading ends in a map or in positions, never in another exception."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from broker.policy.language.document import MAX_DEPTH, Mark, read_document
from broker.policy.language.load import parse
from broker.policy.problems import ScopeMapError
from broker.policy.scope_map import ScopeMap
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE

GOOD = BASE + "grants:\n  g: {workloads: [load], workflows: [etl], scopes: [orders, lake], when: {until: 2027-01-01}}\n"
# Pieces that mean something to YAML or to the language: better mutations than random letters.
PIECES = [
    *[":", "-", "?", "{", "}", "[", "]", ",", "#", "&", "*", "!", "|", ">", "'", '"', "%", "@", "`", "~", "<", "="],
    *(
        "\n",
        "\n  ",
        "\t",
        "\r",
        "\x00",
        "\x85",
        "\ufeff",
        "\u2028",
        "\\U00110000",
        "\\x",
        "<<",
        "---",
        "...",
        "%YAML 3",
    ),
    *("null", "true", "1e9", "0x1", "9" * 5000, "2027-01-01", "*a", "&a", "!!int", "!", "{run}", "${aws:x}", "ttl: 1m"),
    *(
        "workloads:",
        "scopes:",
        "grants:",
        "never:",
        "tests:",
        "tier: low",
        "spiffe://prod.acme.internal/x",
        "[",
        "{" * 40,
    ),
]


def outcome(text: bytes | str) -> ScopeMap | ScopeMapError:
    try:
        return parse(text, "map.yaml", KINDS)
    except ScopeMapError as error:
        refused = error
    assert refused.problems
    assert all(problem.line >= 1 and problem.column >= 1 and problem.message for problem in refused.problems)
    return refused


@given(st.binary(max_size=300))
@example(b"\xff")
@example(b"a: \xed\xa0\x80")
def test_any_bytes_end_in_a_map_or_in_positions(raw: bytes) -> None:
    outcome(raw)


@given(st.text(max_size=300))
@example("\ud800")
@example('"\\U00110000"')
def test_any_text_ends_in_a_map_or_in_positions(text: str) -> None:
    outcome(text)


@given(st.lists(st.sampled_from(PIECES), max_size=30), st.sampled_from(["", " ", "\n"]))
def test_any_heap_of_yaml_ends_in_a_map_or_in_positions(pieces: list[str], glue: str) -> None:
    outcome(glue.join(pieces))


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, len(GOOD)), st.integers(0, 12), st.sampled_from([*PIECES, ""]))
def test_a_damaged_map_ends_in_a_map_or_in_positions(at: int, length: int, piece: str) -> None:
    outcome(GOOD[:at] + piece + GOOD[at + length :])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["workloads", "scopes", "grants", "denies", "never", "tests"]), json_values)
def test_any_data_in_any_section_ends_in_a_map_or_in_positions(section: str, value: object) -> None:
    import json

    text = json.dumps({"version": 1, "environment": "e", "trust_domain": "d", section: value}, ensure_ascii=False)
    outcome(text.replace("\\u", "\\\\u"))


def test_what_other_parsers_convert_stays_text() -> None:
    data = read_document("a: no\nb: 1:30\nc: 2027-01-01\nd: 0o17\ne: 1e5\nf: 12\ng: true\nh:\ni: '5'\n", "f").data
    assert data == {
        "a": "no",
        "b": "1:30",
        "c": "2027-01-01",
        "d": "0o17",
        "e": "1e5",
        "f": 12,
        "g": True,
        "h": None,
        "i": "5",
    }


def test_every_key_and_value_has_its_place() -> None:
    document = read_document("a:\n  - x\n  - {b: 5}\n", "f")
    assert document.mark(("a", 0)) == Mark("f", 2, 5)
    assert document.mark(("a", 1, "b"), key=True) == Mark("f", 3, 6)
    assert document.mark(("a", 1, "b")) == Mark("f", 3, 9)
    assert document.mark(("a", 1, "missing")) == Mark("f", 3, 5)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}"), ("- ", "")])
def test_depth_is_bounded_before_python_s_own_limit(opening: str, closing: str) -> None:
    with pytest.raises(ScopeMapError, match=f"nested deeper than {MAX_DEPTH}"):
        read_document(opening * 5000 + closing * 5000, "f")
