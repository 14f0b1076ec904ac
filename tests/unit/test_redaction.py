from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.redaction import REDACTED, redact, redact_item, redact_text
from broker.secret import Secret

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjYW5hcnktOTkifQ.c2lnbmF0dXJlLWNhbmFyeQ"
PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nY2FuYXJ5LWtleQ\n-----END OPENSSH PRIVATE KEY-----"
STS = "IQoJb3JpZ2luX2VjEPT//////////wEaCWV1LXdlc3QtMSJHMEUCIQCanary+/=="
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
HANDLE = "k3jq5v2yvnqk6w5mzj6g7x4q2e"

# Text → what must not be left of it.
TEXTS: list[tuple[str, str]] = [
    ("minted hvs.CAESIJq-canary_x", "canary"),
    ("minted scv1-k1-canaryabcdef", "canary"),
    ("minted s.canaryCanaryCanaryCanary12", "canary"),
    (f"the token {JWT} is no good", "eyJ"),
    (f"key {PEM} end", "Y2FuYXJ5"),
    (f"key {json.dumps(PEM)} end", "Y2FuYXJ5"),
    (PEM[:50], "Y2FuYXJ5"),
    ("postgresql://u:canary-p%40ss@db:5432/x", "canary"),
    ("redis://:canary@cache:6379", "canary"),
    ("dsn host=db password=canary user=u", "canary"),
    ("X-Vault-Token: canary123", "canary"),
    ("Authorization: Bearer canarycanary", "canary"),
    ("Authorization: Basic Y2FuYXJ5OnBhc3M=", "Y2FuYXJ5"),
    ('{"password": "canary with blanks"}', "canary"),
    ('{"password": "canary with blanks"}', "blanks"),
    ("{'client_token': 'canary'}", "canary"),
    (json.dumps(json.dumps({"secret_id": "canary"})), "canary"),
    ('vault_token { token: "canary" }', "canary"),
    (f"<SecretAccessKey>{AWS_SECRET}</SecretAccessKey>", "wJalr"),
    (f"aws_secret_access_key = {AWS_SECRET}", "wJalr"),
    (f"<SessionToken>{STS}</SessionToken>", "Canary"),
    (f"using {STS} now", "Canary"),
    ("as ASIAQWERTYUIOPASDFGH now", "ASIA"),
    ("as AKIAQWERTYUIOPASDFGH now", "AKIA"),
    (f"step_handle={HANDLE}", HANDLE),
    (f'step_handle: "{HANDLE}"', HANDLE),
    ("STEPCRED_STEP_HANDLE=canary", "canary"),
    ("VAULT_TOKEN=canary", "canary"),
]


@pytest.mark.parametrize(("text", "secret"), TEXTS)
def test_what_looks_like_a_secret_is_taken_out_of_a_text(text: str, secret: str) -> None:
    assert secret in text or PEM[:50] == text
    for shown in (
        redact_text(text),
        str(redact([{"note": text}])),
        str(redact({text: 1})),
        str(redact(RuntimeError(text))),
        str(redact_item("event", f"before {text}\nand after")),
    ):
        assert secret not in shown
        assert REDACTED in shown or PEM[:50] == text


@pytest.mark.parametrize(
    "text",
    [
        "step_handle is derived from the mint key",
        "the token: malformed",
        "vault refused the token: permission denied",
        "secret_id_file: /etc/stepcred/vault-secret-id does not exist",
        "token_type=service",
        "http://vault:8200/v1/auth/token/lookup",
        "lease abcdefghijklmnop of scope orders-read revoked",
        "orders-token ended: EXPIRED",
        "sha256:" + "ab" * 32,
        "spiffe://dev.local/workflow/nightly/step/load",
        "scopes.yaml:12:5: no scope is named 'tokens'",
    ],
)
def test_what_operators_need_stays_readable(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "key", ["token", "Vault-Token", "PASSWORD", "step_handle", "secretAccessKey", "apiKey", "nonce", "private_key_pem"]
)
@pytest.mark.parametrize("value", ["canary", b"canary", ["canary"], {"a": "canary"}, Path("canary"), Secret("canary")])
def test_a_name_that_sounds_like_a_secret_shows_nothing(key: str, value: object) -> None:
    assert redact_item(key, value) == REDACTED
    assert "canary" not in str(redact({"outer": [{key: value}]}))


def test_numbers_and_file_names_stay_readable() -> None:
    assert redact_item("token_count", 3) == 3
    assert redact_item("token_file", "/etc/stepcred/token") == "/etc/stepcred/token"
    assert redact_item("tokens", 3) == 3
    assert redact_item("guard_key", "abc") == "abc"
    assert redact_item("scope", "orders-token") == "orders-token"


class Colour(Enum):
    RED = "red"


class Loud:
    """Nobody knows what it says of itself."""

    def __str__(self) -> str:
        return "canary"

    __repr__ = __str__


def test_only_kinds_that_are_known_to_be_harmless_are_shown() -> None:
    assert redact(Colour.RED) == "red"
    assert redact(ip_address("10.0.0.1")) == "10.0.0.1"
    assert redact(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01 00:00:00+00:00"
    assert redact(Loud()) == "<Loud>"
    for hidden in (b"canary", bytearray(b"canary"), memoryview(b"canary"), [Loud()], {"a": Loud()}):
        assert "canary" not in str(redact(hidden))


def test_a_value_without_end_is_cut() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert REDACTED in str(redact(endless))
    assert len(redact_text("x" * 10_000_000)) < 100_000


@pytest.mark.parametrize(
    "piece",
    [
        "token",
        "token: ",
        "token=",
        "eyJ-",
        "eyJaaaaaaaa.",
        "://",
        "://a:",
        "a",
        "-----BEGIN PRIVATE KEY-----",
        "'",
        "\\",
    ],
)
def test_no_text_makes_it_hang(piece: str) -> None:
    """Every repetition is bounded: an expression that goes back and forth would take minutes for these."""
    text = (piece * 60_000)[:60_000]
    assert redact_text(redact_text(text)) == redact_text(text)


json_like: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_like)
def test_whatever_comes_out_can_be_written_as_json(value: object) -> None:
    json.dumps(redact(value))


@given(st.text(alphabet=st.characters(codec="ascii", categories=("L", "N")), min_size=9), json_like)
def test_under_a_secret_name_nothing_ever_comes_out(secret: str, beside: object) -> None:
    shown = json.dumps(redact({"a": {"vault_token": [secret, beside]}, "b": f"password={secret}"}))
    assert secret not in shown.replace("vault_token", "").replace("password", "").replace("redacted", "")
