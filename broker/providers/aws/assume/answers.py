"""What STS answered, read strictly: small, without document types, each field once. Pure.

What cannot be read is no definite answer: there may be a session all the same.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from xml.etree import ElementTree as ET

from broker.providers.aws.calls import Failure

MOST_BYTES = 65_536  # an answer has 2 kB; AWS says only that tokens may grow

_FIT = re.compile(r"[!-~]+")  # for a header; keys, tokens and ids are
_OK = 200
UNREADABLE = "UnreadableAnswer"


class _Unreadable(Exception):
    """No XML, or none that a service of AWS would write."""


def read(status: int, body: bytes) -> dict[str, Any] | Failure:
    """As the SDK gives it: credentials, whose they are, request id; without what is not there or not fit for its place."""
    try:
        root = _parsed(body)
        return _session(root) if status == _OK else Failure(code=_code(root), status=status)
    except _Unreadable:
        return Failure(code=UNREADABLE, status=status)


def _parsed(body: bytes) -> ET.Element:
    """Entities need a document type. In UTF-8 it is spelled in one way; expat takes UTF-16 too, whatever it is told."""
    try:
        text = body.decode("utf-8") if len(body) <= MOST_BYTES else "\0"
        if "\0" in text or "<!DOCTYPE" in text:
            raise _Unreadable
        return ET.fromstring(text)  # noqa: S314 - see above
    except (UnicodeDecodeError, ET.ParseError):
        raise _Unreadable from None


def _session(root: ET.Element) -> dict[str, Any]:
    outer = _children(root)
    result = _children(outer.get("AssumeRoleResult"))
    held, user = _children(result.get("Credentials")), _children(result.get("AssumedRoleUser"))
    metadata = _children(outer.get("ResponseMetadata"))
    told: dict[str, Any] = {name: _text(held, name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")}
    told["Expiration"] = _time(_text(held, "Expiration"))
    return {
        "Credentials": told,
        "AssumedRoleUser": {"Arn": _text(user, "Arn")},
        "ResponseMetadata": {"RequestId": _text(metadata, "RequestId")},
    }


def _code(root: ET.Element) -> str:
    """In `Error`. Moto puts `Errors` around that, and Ceph's STS writes none of them (measured)."""
    outer = _children(root)
    wrapped = _children(outer.get("Errors"))
    return _text(_children(outer.get("Error")) or _children(wrapped.get("Error")) or outer, "Code")


def _children(parent: ET.Element | None) -> dict[str, ET.Element]:
    """By name, in whatever namespace. Raises _Unreadable: which of several?"""
    if parent is None:
        return {}
    found = {each.tag.rpartition("}")[2]: each for each in parent}
    if len(found) != len(parent):
        raise _Unreadable
    return found


def _text(children: dict[str, ET.Element], name: str) -> str:
    element = children.get(name)
    text = "" if element is None or len(element) else element.text or ""
    return text if _FIT.fullmatch(text) else ""


def _time(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None
