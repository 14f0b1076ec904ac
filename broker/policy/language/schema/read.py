"""One entry read by its model; pydantic's complaints in our words, each with its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from broker.model import JsonValue
from broker.policy.language.document import Document, Path
from broker.policy.problems import Problem, did_you_mean, named

M = TypeVar("M", bound=BaseModel)


def read_entry(
    kind: type[M], data: JsonValue, path: Path, document: Document, problems: list[Problem], *, also: Iterable[str] = ()
) -> M | None:
    """Validate one entry; complaints go to `problems`. `also`: further keys to suggest for a misspelt one."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        for mistake in error.errors(include_url=False):
            where: Path = tuple(mistake["loc"])
            message = _words(mistake, kind, where, also)
            problems.append(document.problem(path + where, message, key=mistake["type"] == "extra_forbidden"))
        return None


_EXPECTED = {
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "int_type": "a whole number",
    "bool_type": "true or false",
}
_FOUND = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a mapping"}


def _words(mistake: Mapping[str, Any], kind: type[BaseModel], where: Path, also: Iterable[str]) -> str:
    if mistake["type"] == "extra_forbidden":
        known = [*_keys(kind, where[:-1]), *(also if len(where) == 1 else ())]
        return f"unknown key{named(str(where[-1]))}{did_you_mean(str(where[-1]), known)}"
    if mistake["type"] == "missing":
        hint = '; write ["*"] for any workflow' if where[-1] == "workflows" else ""
        return f"{where[-1]!r} is missing{hint}"
    if mistake["type"] == "value_error":
        return str(mistake["ctx"]["error"])
    if mistake["type"] in _EXPECTED:
        found = _FOUND.get(type(mistake["input"]), "nothing")
        in_quotes = "; put it in quotes" if mistake["type"] == "string_type" and "number" in found else ""
        return f"expected {_EXPECTED[mistake['type']]}, found {found}{in_quotes}"
    return "not understood"


def _keys(kind: type[BaseModel], where: Path) -> list[str]:
    """The keys that an entry knows at this place."""
    for name in where:
        fields = {field.alias or key: field for key, field in kind.model_fields.items()}
        inside = fields[str(name)].annotation if str(name) in fields else None
        models = [one for one in (inside, *get_args(inside)) if isinstance(one, type) and issubclass(one, BaseModel)]
        if not models:
            return []
        kind = models[0]
    return [field.alias or key for key, field in kind.model_fields.items()]
