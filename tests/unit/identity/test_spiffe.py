from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.identity.spiffe import MAX_BYTES, SpiffeIdError, parse_spiffe_id

DOMAIN_CHARS = string.ascii_lowercase + string.digits + "._-"
SEGMENT_CHARS = string.ascii_letters + string.digits + "._-"

domains = st.text(DOMAIN_CHARS, min_size=1, max_size=255)
segments = st.text(SEGMENT_CHARS, min_size=1, max_size=30).filter(lambda segment: segment not in {".", ".."})
# Mostly right, so that the interesting border is met often.
near_misses = st.lists(
    st.sampled_from(
        ["spiffe://", "SPIFFE://", "/", "a", "Z", "td", ".", "..", "-", "_", "%2e", "?", "#", ":8", "@", " "]
    )
    | st.characters(),
    max_size=8,
).map("".join)


def naive_accepts(text: str) -> bool:
    """The grammar once more, character by character and without a regular expression."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES or not text.startswith("spiffe://"):
        return False
    domain, *path = text.removeprefix("spiffe://").split("/")
    if not 1 <= len(domain) <= 255 or any(char not in DOMAIN_CHARS for char in domain):
        return False
    return bool(path) and all(
        segment not in {"", ".", ".."} and all(char in SEGMENT_CHARS for char in segment) for segment in path
    )


def accepts(text: str) -> bool:
    try:
        parse_spiffe_id(text)
    except SpiffeIdError:
        return False
    return True


@given(domains, st.lists(segments, min_size=1, max_size=8))
def test_a_good_id_round_trips(domain: str, path: list[str]) -> None:
    text = f"spiffe://{domain}/{'/'.join(path)}"
    parsed = parse_spiffe_id(text)
    assert (parsed.trust_domain, parsed.path) == (domain, "/" + "/".join(path))
    assert str(parsed) == text


@given(near_misses | near_misses.map("spiffe://td/".__add__) | near_misses.map("spiffe://".__add__) | st.text())
def test_nothing_outside_the_grammar_is_accepted_and_nothing_inside_refused(text: str) -> None:
    assert accepts(text) == naive_accepts(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "spiffe://td",
        "spiffe://td/",
        "spiffe://td/a/",
        "spiffe://td//a",
        "spiffe:///a",
        "spiffe://td/./a",
        "spiffe://td/a/..",
        "spiffe://TD/a",
        "Spiffe://td/a",
        "https://td/a",
        "spiffe:/td/a",
        "spiffe://td:443/a",
        "spiffe://user@td/a",
        "spiffe://td/a?b",
        "spiffe://td/a#b",
        "spiffe://td/%61",
        "spiffe://td/a\0",
        "spiffe://td/a\0/b",
        "spiffe://td/a\n",
        " spiffe://td/a",
        "spiffe://td/a ",
        "spiffe://td/ä",
        "spiffe://tđ/a",
        "spiffe://td/a*",
        "spiffe://td/a+b",
        "spiffe://td/a\\b",
        f"spiffe://{'d' * 256}/a",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(SpiffeIdError) as refusal:
        parse_spiffe_id(text)
    assert len(text) < 10 or text not in str(refusal.value), "a stranger's text must not come back in an error"


def test_the_longest_id_is_2048_bytes() -> None:
    text = "spiffe://td/" + "a" * (MAX_BYTES - len("spiffe://td/"))
    assert str(parse_spiffe_id(text)) == text
    with pytest.raises(SpiffeIdError):
        parse_spiffe_id(text + "a")


def test_segments_that_only_begin_with_dots_are_names() -> None:
    assert parse_spiffe_id("spiffe://td/.../.a/..b").path == "/.../.a/..b"
