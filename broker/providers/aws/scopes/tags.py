"""Session tags and source identity, within the limits of AssumeRole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from broker.model import JsonValue
from broker.providers.aws.scopes.texts import UNFILLED, listed, matching

LEASE = "lease"  # as source_identity: the lease's id
ALL = "*"  # of transitive_tags: what `true` becomes; no tag's key
MOST_TAGS = 50

_CHARACTERS = r"A-Za-z0-9 _.:/=+@-"  # STS takes letters of all scripts; these look like nothing else
_TEMPLATE = r"\{[a-z][a-z0-9_]{0,31}\}"
_KEY = rf"^[{_CHARACTERS}]{{1,128}}$"
# Filled, a value may turn out too long, or too short: still readable, so that the mint can say what is wrong.
_VALUE = rf"^([{_CHARACTERS}]|{_TEMPLATE}){{0,1000}}$"
_IDENTITY = rf"^([A-Za-z0-9_+=,.@-]{{1,64}}|{_TEMPLATE})$"
_FILLED_VALUE = re.compile(rf"[{_CHARACTERS}]{{0,256}}", re.ASCII)
_FILLED_IDENTITY = re.compile(r"[A-Za-z0-9_+=,.@-]{2,64}", re.ASCII)


def _tags(tags: Mapping[str, str]) -> Mapping[str, str]:
    if any(key.lower().startswith("aws:") for key in tags):
        raise ValueError("keys that begin with aws: are AWS's own")
    if len({key.lower() for key in tags}) < len(tags):
        raise ValueError("has two keys that differ in upper and lower case only: to STS they are the same")
    if len(tags) > MOST_TAGS:
        raise ValueError(f"has {len(tags)} tags, STS takes {MOST_TAGS}")
    return tags


def _every(value: JsonValue) -> JsonValue:
    return (ALL,) if value is True else listed(value)


_Key: TypeAlias = Annotated[str, Field(pattern=_KEY)]
_Value: TypeAlias = Annotated[str, Field(pattern=_VALUE)]

SessionTags: TypeAlias = Annotated[
    Mapping[_Key, _Value], AfterValidator(_tags), Field(json_schema_extra={"maxProperties": MOST_TAGS})
]
TransitiveTags: TypeAlias = Annotated[
    tuple[Annotated[str, Field(pattern=rf"{_KEY}|^\*$")], ...],
    BeforeValidator(_every),
    WithJsonSchema({"anyOf": [{"const": True}, *matching(_KEY, least=0).json_schema["anyOf"]]}),
]
SourceIdentity: TypeAlias = Annotated[str, Field(pattern=_IDENTITY)]


def is_value(text: str, templates: str = "") -> bool:
    """Of a tag, with this in place of templates that are left?"""
    return _FILLED_VALUE.fullmatch(UNFILLED.sub(templates, text) if templates else text) is not None


def is_source_identity(text: str) -> bool:
    """One that STS takes, with its template filled?"""
    return _FILLED_IDENTITY.fullmatch(text) is not None
