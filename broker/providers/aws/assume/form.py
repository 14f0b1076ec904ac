"""Parameters of a query API's call as the form that is sent. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import urlencode

from broker.model import JsonValue

ACTION = "AssumeRole"
VERSION = "2011-06-15"  # of STS's API; there is no other


def form(parameters: Mapping[str, JsonValue]) -> bytes:
    """As the SDK spells it: lists as `Tags.member.1.Key`. Raises TypeError on what AssumeRole has not."""
    return urlencode([("Action", ACTION), ("Version", VERSION), *_pairs(parameters)]).encode("ascii")


def _pairs(parameters: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in parameters.items():
        if isinstance(value, list):
            for number, each in enumerate(value, 1):
                key = f"{prefix}{name}.member.{number}"
                if isinstance(each, Mapping):
                    yield from _pairs(each, f"{key}.")
                else:
                    yield key, _text(each)
        else:
            yield prefix + name, _text(value)


def _text(value: JsonValue) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TypeError("AssumeRole takes texts and whole numbers")
    return str(value)
