"""Text for a terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcred.cli._top import words

NOW = datetime(2026, 12, 1, 22, tzinfo=UTC)


@given(st.text())
def test_whatever_is_said_is_printable_ascii_and_bounded(text: str) -> None:
    said = words.said(text)
    assert all(" " <= letter <= "~" for letter in said)
    assert len(said) <= 503 * 10  # the longest escape is \U0001f512


@given(st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=500))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert words.said(text) == text


@pytest.mark.parametrize(
    ("bad", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b2J", r"\x9b2J"),  # the same in one C1 byte
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("pay\u202eroll", r"pay\u202eroll"),  # turns round what follows
        ("l\u043ead", r"l\u043ead"),  # a Cyrillic o
        ("lo\u200bad", r"lo\u200bad"),
        ("\udc80", r"\udc80"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(bad: str, shown: str) -> None:
    assert words.said(bad) == shown


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=9999)))
def test_a_span_fits_its_column(length: timedelta) -> None:
    assert 2 <= len(words.span(length)) <= 5


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h00"), (86399, "23h59"), (86400, "1d00h"),
     (863999, "9d23h"), (864000, "10d"), (-5, "0s")],
)  # fmt: skip
def test_spans(seconds: float, shown: str) -> None:
    assert words.span(timedelta(seconds=seconds)) == shown


def test_an_end_that_is_over_is_past() -> None:
    assert words.until(NOW + timedelta(seconds=9), NOW) == "9s"
    assert words.until(NOW, NOW) == "past"
    assert words.until(None, NOW) == ""


@given(st.text(max_size=40), st.integers(min_value=0, max_value=45), st.booleans())
def test_what_is_cut_says_so_and_fits(text: str, width: int, keep_end: bool) -> None:  # noqa: FBT001
    fitted = words.fit(text, width, keep_end=keep_end)
    assert len(fitted) <= width
    if len(text) <= width:
        assert fitted == text
    elif width > 1:
        assert "…" in fitted
        kept = fitted.strip("…") if "…" not in text else ""
        assert text.endswith(kept) if keep_end else text.startswith(kept)


def test_agents_of_another_trust_domain_look_different() -> None:
    agents = ["spiffe://acme.internal/workflow/a/step/b"] * 3 + ["spiffe://evil.example/workflow/a/step/b"]
    domain = words.home(agents)
    assert domain == "acme.internal"
    shown = {words.short(agent, domain) for agent in agents}
    assert shown == {"workflow/a/step/b", "evil.example/workflow/a/step/b"}
    assert words.short("spiffe://acme.internal.evil/x", domain) == "acme.internal.evil/x"
