"""A JSON Schema (draft 2020-12) of a scope map, for editors. Made from the models that read it.

It never refuses a map that loads, but for a map without `extends` that leaves its head to those that extend it. It lets
through what only the whole map can say: unknown names, never, tests. With `extends` an entry may be a part of one, and
null takes away, so nothing is required there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from broker.model import NAME, JsonValue, ScopeKind, Tier
from broker.policy.durations import format_duration
from broker.policy.language.schema import entries
from broker.policy.language.schema.values import DOMAINS_SCHEMA

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_SECTIONS: Mapping[str, type[BaseModel]] = {
    "workloads": entries.WorkloadEntry,
    "launchers": entries.LauncherEntry,
    "scopes": entries.ScopeEntry,
    "grants": entries.GrantEntry,
    "denies": entries.DenyEntry,
    "never": entries.NeverEntry,
    "teams": entries.TeamEntry,
}
_MODELS: tuple[type[BaseModel], ...] = (
    *_SECTIONS.values(),
    entries.TierEntry,
    entries.ApprovalsEntry,
    entries.Expectation,
    entries.Head,
    entries.TeamHead,
)
_CONSTANT = {"type": ["string", "null"], "pattern": "^[A-Za-z0-9._-]{1,128}$"}
_REGIONS = {"type": "array", "items": {"type": "string", "pattern": "^[a-z][a-z0-9-]{1,31}$"}, "minItems": 1}
# Where a constant or a capture stands, the rest of a pattern cannot be looked at.
_TEMPLATED = {"type": "string", "pattern": r"(^|[/:])\{[a-z][a-z0-9_]{0,31}\}([/:]|$)"}
_PART = "Part"  # of an entry: the rest is in the map that is extended


def root_schema(kinds: Mapping[str, ScopeKind]) -> dict[str, JsonValue]:
    """Of a root map, alone or with `extends`."""
    found = _definitions(kinds)
    head = found.pop(entries.Head.__name__)
    del found[entries.TeamHead.__name__]
    whole = _sections()
    part = {name: _partial_value(section) for name, section in whole.items()}
    tests = {"type": "array", "items": _reference(entries.Expectation)}
    properties = {name: prop for name, prop in head["properties"].items() if name not in whole} | {"tests": tests}
    parts = {f"{name}{_PART}": _partial(one) for name, one in found.items()}
    described = {name: {"description": head["properties"][name]["description"]} for name in whole}
    return {
        "$schema": DIALECT,
        "title": "stepcred scope map",
        "type": "object",
        "properties": properties | described,
        "additionalProperties": False,
        "if": {"required": ["extends"], "properties": {"extends": {"type": "string"}}},
        "then": {"properties": part},
        "else": {"properties": whole, "required": head["required"]},
        "$defs": _used(found | parts, [properties, whole, part]),
    }


def team_schema(kinds: Mapping[str, ScopeKind]) -> dict[str, JsonValue]:
    """Of a team's file."""
    found = _definitions(kinds)
    head = found.pop(entries.TeamHead.__name__)
    sections = {name: section for name, section in _sections().items() if name in entries.TEAM_SECTIONS}
    tests = {"type": "array", "items": _reference(entries.Expectation)}
    return {
        "$schema": DIALECT,
        "title": "stepcred scope map: a team's file",
        "type": "object",
        "properties": head["properties"] | sections | {"tests": tests},
        "additionalProperties": False,
        "required": head["required"],
        "$defs": _used(found, [*sections.values(), tests]),
    }


def _sections() -> dict[str, JsonValue]:
    """Of a map that is whole."""
    found = {name: _named(_reference(model)) for name, model in _SECTIONS.items()}
    tiers = {tier.value: _reference(entries.TierEntry) for tier in Tier}
    return found | {
        "tiers": {"type": "object", "properties": tiers, "additionalProperties": False},
        "approvals": _reference(entries.ApprovalsEntry),
        "constants": {"type": "object", "additionalProperties": _CONSTANT},
        "residency": _named(_REGIONS),
        "federates_with": DOMAINS_SCHEMA,
    }


def _named(entry: JsonValue) -> JsonValue:
    names = {"pattern": f"^{NAME.pattern}$"}
    return {"type": "object", "propertyNames": names, "additionalProperties": entry}


def _reference(model: type[BaseModel]) -> JsonValue:
    return {"$ref": f"#/$defs/{model.__name__}"}


def _definitions(kinds: Mapping[str, ScopeKind]) -> dict[str, JsonValue]:
    """Every entry, scopes with the blocks of all providers."""
    made = models_json_schema([(model, "validation") for model in _MODELS], ref_template="#/$defs/{model}")[1]
    found: dict[str, JsonValue] = {name: _tidy(one) for name, one in made["$defs"].items()}
    for model in _MODELS:
        for name, field in model.model_fields.items():
            if isinstance(field.default, timedelta):
                found[model.__name__]["properties"][field.alias or name]["default"] = format_duration(field.default)
    scope = found[entries.ScopeEntry.__name__]
    for name, kind in kinds.items():
        block = _templated(_tidy(_prefixed(kind.json_schema(), f"{name}.")))
        found |= block.pop("$defs", {})
        found[name] = block
        scope["properties"][name] = {"$ref": f"#/$defs/{name}"}
    scope["oneOf"] = [{"required": [name]} for name in kinds]
    return found


def _tidy(schema: JsonValue) -> JsonValue:
    """Without pydantic's titles, its spelling of defaults that are nothing, and all but the first lines of a docstring."""
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _tidy(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    if found.get("default") in (None, {}, []) or isinstance(found.get("default"), dict):
        found.pop("default", None)
    if isinstance(found.get("description"), str):
        found["description"] = found["description"].split("\n\n")[0].replace("\n", " ")
    return found


def _prefixed(schema: JsonValue, prefix: str) -> JsonValue:
    """A provider's own definitions under names that no other one has."""
    if isinstance(schema, list):
        return [_prefixed(item, prefix) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _prefixed(value, prefix) for key, value in schema.items()}
    if isinstance(found.get("$ref"), str):
        found["$ref"] = found["$ref"].replace("#/$defs/", f"#/$defs/{prefix}")
    if isinstance(found.get("$defs"), dict):
        found["$defs"] = {prefix + name: one for name, one in found["$defs"].items()}
    return found


def _templated(schema: JsonValue) -> JsonValue:
    """A text with a template in it need not look like what it will become."""
    if isinstance(schema, list):
        return [_templated(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _templated(value) for key, value in schema.items()}
    if found.get("type") == "string" and isinstance(found.get("pattern"), str):
        plain = {key: found.pop(key) for key in ("type", "pattern")}
        found["anyOf"] = [plain, _TEMPLATED]
    return found


def _partial(schema: JsonValue) -> JsonValue:
    """An entry of which the rest is elsewhere: nothing is required, and null takes any key away."""
    found = {key: value for key, value in schema.items() if key not in ("required", "oneOf")}
    for key in ("properties", "patternProperties"):
        if key in found:
            found[key] = {name: _partial_value(value) for name, value in found[key].items()}
    if isinstance(found.get("additionalProperties"), dict):
        found["additionalProperties"] = _partial_value(found["additionalProperties"])
    return found


def _partial_value(schema: JsonValue) -> JsonValue:
    """Lists are replaced as a whole, so what is in them is whole."""
    null = {"type": "null"}
    if "$ref" in schema:
        others = {key: value for key, value in schema.items() if key != "$ref"}
        return others | {"anyOf": [{"$ref": f"{schema['$ref']}{_PART}"}, null]}
    if "anyOf" in schema:
        options = [_partial_value(one) for one in schema["anyOf"] if one != null]
        return schema | {"anyOf": [*options, null]}
    return {"anyOf": [_partial(schema), null]}


def _used(definitions: Mapping[str, JsonValue], roots: list[JsonValue]) -> dict[str, JsonValue]:
    """Only the definitions that something refers to."""
    found: dict[str, JsonValue] = {}
    waiting = list(roots)
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, list):
            waiting += schema
        elif isinstance(schema, dict):
            waiting += schema.values()
            name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
            if name and name not in found:
                found[name] = definitions[name]
                waiting.append(definitions[name])
    return {name: definitions[name] for name in definitions if name in found}
