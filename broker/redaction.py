"""The second net against secrets (I6): what may be shown of a value, by its kind, its name and its looks.

It finds what is named like a secret or has a known form. A password that stands alone in a sentence has neither: for
that there is only the first net, that nobody writes one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import PurePath
from uuid import UUID

from broker.secret import Secret

REDACTED = "[redacted]"
MAX_DEPTH = 6  # nested deeper than this, a value is left out rather than walked
_SHOWN = (
    BaseException,
    PurePath,
    UUID,
    date,
    datetime,
    time,
    timedelta,
    IPv4Address,
    IPv6Address,
    IPv4Network,
    IPv6Network,
)

_SECRET_KEY = re.compile(
    r"secret|passw|passphrase|token|credential|private_?key|(?:api|access)_?key|authori[sz]ation|cookie|handle|nonce"
    r"|session_?key|(?<![a-z])key_?pem",
    re.IGNORECASE,
)
_HARMLESS = ("file", "path", "count", "seconds", "kid", "type", "ttl", "policy", "policies")  # what follows the name
_HARMLESS_KEY = re.compile(rf"_({'|'.join(_HARMLESS)})$", re.IGNORECASE)
_NAME = (
    r"(?:secret|passw|passphrase|token|credential|private_?key|api_?key|access_?key|authori[sz]ation|handle|nonce)"
    r"[\w-]{0,32}" + "".join(f"(?<!_{word})" for word in _HARMLESS)
)
_SECRET_TEXT = re.compile(
    r"scv1-[\w-]+"  # our own Vault token ids
    r"|\bhv[sbr]\.[\w-]+|\b[sbr]\.[A-Za-z0-9]{24,}"  # Vault's and OpenBao's
    r"|(?i:bearer|basic)\s+[\w.~+/=-]{8,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"  # user:password in a URL
    r"|\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{12,}"  # AWS: ids of access keys
    r"|\b(?:IQoJ|FwoG|FQoG)[\w+/=-]{40,}"  # and session tokens
    r"|\beyJ[\w-]{8,1024}\.[\w-]{8,}(?:\.[\w-]*)?",  # a JWT
    re.DOTALL,
)
# What stands behind a name that sounds like a secret. Every repetition has a bound: agents' texts get here too.
_NAMED_SECRET = re.compile(
    # "name": "value", name: "value" (protobuf), name='value', and the same in quotes of a text in quotes
    rf"({_NAME}(?:\\?[\"'])?\s{{0,4}}(?:=>|=|:)\s{{0,4}}\\?[\"'])(?!\[redacted)[^\"'\\]{{1,4096}}"
    # name=value, name = value, name:value, <Name>value<
    rf"|({_NAME}(?:\s{{0,4}}=\s{{0,4}}|>|:(?=[^\s/])))(?!\[redacted)[^\s\"'<>,;&}}\]\\]{{1,4096}}"
    # Name: value, where a bare word may be a sentence; with a digit, or long, it is none
    rf"|({_NAME}:\s)(?:(?=[^\s\"'<>,;]{{0,255}}\d)[^\s\"'<>,;]{{8,4096}}|[^\s\"'<>,;]{{20,4096}})",
    re.IGNORECASE,
)
_MAX_TEXT = 32_768  # characters of one text that are looked at, and shown


def redact_text(text: str) -> str:
    """A copy without what looks like a secret by itself, or stands behind a name that does."""
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT] + "…"
    text = _SECRET_TEXT.sub(REDACTED, text)
    return _NAMED_SECRET.sub(lambda found: f"{found[1] or found[2] or found[3]}{REDACTED}", text)


def redact(value: object, depth: int = 0) -> object:
    """A copy of `value` that may be logged: of kinds that are known to be harmless, by allow-list (CVE-2025-62513)."""
    if isinstance(value, str):
        return redact_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth >= MAX_DEPTH or isinstance(value, Secret | bytes | bytearray | memoryview):
        return REDACTED
    if isinstance(value, Mapping):
        return {redact_text(str(key)): redact_item(str(key), item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, depth + 1) for item in value]
    return _redact_other(value)


def _redact_other(value: object) -> str:
    if isinstance(value, Enum):
        return redact_text(str(value.value))
    return redact_text(str(value)) if isinstance(value, _SHOWN) else f"<{type(value).__name__}>"


def redact_item(key: str, value: object, depth: int = 0) -> object:
    """`value` as it may be logged under `key`: a key that sounds like a secret shows numbers only."""
    sounds_secret = _SECRET_KEY.search(key) and not _HARMLESS_KEY.search(key)
    if sounds_secret and value is not None and not isinstance(value, bool | int | float):
        return REDACTED
    return redact(value, depth)
