"""Masking of issued secrets: for any secrets, any text, any chunks."""

from __future__ import annotations

import base64
import json
import random
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepcred.cli import _mask
from stepcred.cli._mask import LET_OUT, SHORTEST, Mask, Secrets

# Two signs make overlaps and false beginnings common; a "*" in a secret could be made up of the masks of others.
SECRETS = st.lists(
    st.one_of(st.text("ab", min_size=1, max_size=40), st.text("ab\n%/é", min_size=1, max_size=20)),
    min_size=0,
    max_size=4,
)
CUTS = st.lists(st.integers(1, 9), max_size=60)


@st.composite
def outputs(draw: st.DrawFn) -> tuple[list[str], bytes]:
    """Secrets, and a text in which they are common: in every form, whole, cut short, one over the other."""
    secrets = draw(SECRETS)
    pieces = [form for secret in secrets for form in sorted(_mask.forms(secret))]
    pieces += [piece[:-1] for piece in pieces] + [piece[1:] for piece in pieces]
    some = st.one_of(st.binary(max_size=5), st.sampled_from([b"a", b"b", b"\n", *pieces]))
    return secrets, b"".join(draw(st.lists(some, max_size=12)))


def expected(secrets: list[str], text: bytes) -> bytes:
    """Byte by byte: every one that belongs to an occurrence is covered, a run of them is one mask."""
    covered = [False] * len(text)
    for form in {form for secret in secrets for form in _mask.forms(secret)}:
        for at in range(len(text)):
            if text.startswith(form, at):
                covered[at : at + len(form)] = [True] * len(form)
    shown = bytearray()
    for at, sign in enumerate(text):
        if not covered[at]:
            shown.append(sign)
        elif at == 0 or not covered[at - 1]:
            shown += b"***"
    return bytes(shown)


def chunks(text: bytes, cuts: list[int]) -> list[bytes]:
    made = []
    for cut in cuts:
        made.append(text[:cut])
        text = text[cut:]
    return [*made, text]


@settings(max_examples=400, deadline=None)
@given(output=outputs(), cuts=CUTS)
@example(output=(["\naaaaa%"], b"%0Aaaaaa%2"), cuts=[])  # a whole one in the beginning of another
def test_no_secret_comes_through_and_all_else_is_unchanged(output: tuple[list[str], bytes], cuts: list[int]) -> None:
    secrets, text = output
    known = Secrets()
    known.add(secrets)
    mask = Mask(known)
    shown = b"".join([*(mask.feed(chunk) for chunk in chunks(text, cuts)), mask.end()])
    assert shown == expected(secrets, text)
    assert not any(form in shown for secret in secrets for form in _mask.forms(secret))


@settings(max_examples=400, deadline=None)
@given(output=outputs(), cuts=CUTS, waits=st.randoms(use_true_random=False))
def test_with_beginnings_let_out_no_secret_comes_through_either(
    output: tuple[list[str], bytes], cuts: list[int], waits: random.Random
) -> None:
    secrets, text = output
    known = Secrets()
    known.add(secrets)
    mask = Mask(known)
    shown = b""
    for chunk in chunks(text, cuts):
        shown += mask.feed(chunk)
        if waits.random() < 0.5:
            shown += mask.let_out()
            assert not mask.waiting
    shown += mask.end()
    assert not any(form in shown for secret in secrets for form in _mask.forms(secret))
    assert len(shown.replace(b"***", b"")) >= len(expected(secrets, text).replace(b"***", b""))


@given(output=outputs(), cuts=CUTS)
def test_what_is_held_back_is_the_beginning_of_a_secret_and_no_more(
    output: tuple[list[str], bytes], cuts: list[int]
) -> None:
    secrets, text = output
    known = Secrets()
    known.add(secrets)
    mask = Mask(known)
    every = {form for secret in secrets for form in _mask.forms(secret)}
    for chunk in chunks(text, cuts):
        mask.feed(chunk)
        held = mask._held
        assert not held or any(form.startswith(held) and form != held for form in every)


def test_a_secret_is_known_in_every_form_that_programs_write() -> None:
    secret = 'p"ä/ss+w\\rd=%12345'
    known = Secrets()
    assert known.add([secret]) == 0
    for written in (
        secret,
        quote(secret, safe=""),
        json.dumps({"password": secret}),
        json.dumps({"password": secret}, ensure_ascii=False),
        base64.b64encode(secret.encode()).decode(),
        *(base64.b64encode(f"{user}:{secret}\n".encode()).decode() for user in ("u", "us", "use")),
        base64.urlsafe_b64encode(b"\xff" + secret.encode()).decode(),
    ):
        mask = Mask(known)
        shown = mask.feed(f"before {written} after".encode()) + mask.end()
        assert b"***" in shown, written
        assert shown.startswith(b"before ")
        assert shown.endswith(b" after")
        assert len(shown) < len(b"before {'password': '***'} after") + 8, shown


def test_a_pem_is_known_by_its_lines_but_not_by_its_armor() -> None:
    body = ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC", "BKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj", "MzEfYyjiWA4R"]
    pem = "\n".join(["-----BEGIN PRIVATE KEY-----", *body, "-----END PRIVATE KEY-----", ""])
    known = Secrets()
    known.add([pem])
    mask = Mask(known)
    through_a_terminal = pem.replace("\n", "\r\n").encode()
    assert mask.feed(through_a_terminal) + mask.end() == (
        b"-----BEGIN PRIVATE KEY-----\r\n***\r\n***\r\n***\r\n-----END PRIVATE KEY-----\r\n"
    )
    indented = Mask(known)
    assert indented.feed(f"key: |\n  {body[1]}\n".encode()) == b"key: |\n  ***\n"


def test_wrapped_base64_is_known_by_its_lines() -> None:
    secret = "s3cret" * 40
    known = Secrets()
    known.add([secret])
    mask = Mask(known)
    assert mask.feed(base64.encodebytes(secret.encode())).replace(b"***\n", b"") == b""


def test_short_ones_are_counted_and_left_alone() -> None:
    known = Secrets()
    assert known.add(["true", "5432é", "s3cret"]) == 1
    mask = Mask(known)
    assert mask.feed(b"true 5432\xc3\xa9 s3cret.") == b"true *** ***."


def test_at_most_three_signs_are_shown_to_one_who_waits() -> None:
    known = Secrets()
    known.add(["s3cret-token"])
    mask = Mask(known)
    assert mask.feed(b"Password: s") == b"Password: "
    assert (mask.waiting, mask.let_out(), mask.waiting) == (True, b"s", False)
    typed = b"".join(mask.feed(bytes([sign])) + mask.let_out() for sign in b"3cret-token!")
    assert typed == b"3c***!"
    assert LET_OUT * 2 <= SHORTEST


def test_a_secret_learnt_later_is_masked_from_then_on() -> None:
    known = Secrets()
    known.add(["first-secret"])
    mask = Mask(known)
    assert mask.feed(b"second-secret first-se") == b"second-secret "
    known.add(["second-secret"])
    assert mask.feed(b"cret second-secret\n") == b"*** ***\n"


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_memory_is_bound_by_the_longest_secret(size: int) -> None:
    known = Secrets()
    known.add(["a" * 500])
    mask = Mask(known)
    longest = max(len(form) for form in _mask.forms("a" * 500))
    for _ in range(2000 // size + 2):
        mask.feed(b"a" * size)
        assert len(mask._held) < longest
