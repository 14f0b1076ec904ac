"""From the three sources to a `Config`, or to every mistake at once."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from broker.config.settings import Config, whole_problems
from broker.config.sources import FLAGS, Keys, Tree, add_environment, add_file, add_text, is_section, schema, variable
from broker.errors import ConfigError, unreadable
from broker.permissions import public_problem

MAX_FILE_BYTES = 1 << 20  # a config is a few kB; more is a mistake in the path

_ADAPTER = TypeAdapter(Config)


def load(path: Path, env: Mapping[str, str], overrides: Mapping[str, str] | None = None) -> Config:
    """Read, merge and check the settings.

    Args:
        path: the TOML file; relative paths in any source are relative to its folder.
        env: the environment; STEPCRED_BROKER_SECTION__KEY overrides the file.
        overrides: dotted key → text, from flags; they override both.

    Raises ConfigError with every problem found, each naming its source.
    """
    tree = Tree(file=str(path))
    add_file(tree, Config, _read(path))
    add_environment(tree, Config, env)
    for key, text in (overrides or {}).items():
        add_text(tree, Config, tuple(key.split(".")), text, FLAGS.get(key, f"override {key}"))
    for section in fields(Config):
        if (
            section.default is MISSING
            and section.default_factory is MISSING
            and is_dataclass(schema(Config)[section.name])
        ):
            tree.values_at((section.name,))  # so that each missing key is named, not just the section
    if not (tree.values.keys() & {"vault", "aws"}):
        tree.problems.append(f"{path}: no provider; add a section [vault] or [aws]")
    context = {"base": path.resolve().parent}
    try:
        config = _ADAPTER.validate_python(tree.values, context=context)
    except ValidationError as error:
        for item in [*_errors(error), *_behind(tree, error, context)]:
            _explain(tree, item)
        raise ConfigError(tree.problems) from None
    tree.problems += [f"{path}: {problem}" for problem in whole_problems(config)]
    if tree.problems:
        raise ConfigError(tree.problems)
    return config


def _errors(error: ValidationError) -> list[Any]:
    items = error.errors(include_url=False, include_input=False)
    for item in items:
        if item["loc"][-1:] == ("[key]",):  # pydantic's mark of a table's key, where it is not its value that is wrong
            item["loc"] = item["loc"][:-1]
    return items


def _behind(tree: Tree, error: ValidationError, context: dict[str, Path]) -> list[Any]:
    """What a section's own check finds, which pydantic leaves out when one of its values is wrong.

    Looked for without the wrong values; what is said about them is left out.
    """
    wrong = {_setting(tuple(str(part) for part in item["loc"])) for item in _errors(error)}
    values = copy.deepcopy(tree.values)
    for *above, key in wrong:
        section: Any = values
        for part in above:
            section = section.get(part, {})
        section.pop(key, None)
    try:
        _ADAPTER.validate_python(values, context=context)
    except ValidationError as rest:
        more = [item for item in _errors(rest) if item["type"] == "value_error" and item["loc"] not in wrong]
    else:
        return []
    for item in more:
        names = {keys[-1] for keys in wrong if keys[:-1] == item["loc"]}
        lines = str(item["ctx"]["error"]).splitlines()
        item["ctx"] = {"error": "\n".join(line for line in lines if names.isdisjoint(re.findall(r"\w+", line)))}
    return more


def _setting(keys: Keys) -> Keys:
    """Without what lies inside of one setting: a table with a wrong line is wrong as a whole."""
    section: Any = Config
    for depth, key in enumerate(keys):
        section = schema(section).get(key)
        if not is_section(section):
            return keys[: depth + 1]
    return keys


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            if problem := public_problem(path):  # it names the roots and the scope map
                raise ConfigError([f"{path}: {problem}"])
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise ConfigError([f"{path}: larger than 1 MiB; is this the config file?"])
        return tomllib.loads(raw.decode())
    except OSError as error:
        raise ConfigError([f"{path}: {unreadable(error)}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: is not UTF-8 text"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: is not TOML: {error}"]) from None


_PLAIN = {
    "string_type": "must be text in quotes",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must be lower-case letters, digits, '.', '_' and '-'",
    "int_type": "must be a whole number, without quotes",
    "float_type": "must be a number, without quotes",
    "dict_type": "is a table; write [{keys}] and its lines below",
    "unexpected_keyword_argument": 'is not known here; a name with dots is quoted: [federation."partner.example"]',
    "bool_type": "must be true or false, without quotes",
}


def _explain(tree: Tree, item: Any) -> None:
    """One of pydantic's findings in our words; never with the value."""
    keys: Keys = tuple(str(part) for part in item["loc"])
    kind, context = item["type"], item.get("ctx", {})
    if kind == "missing":
        if not _named_already(tree, keys):
            tree.problem(keys, f"missing; set it in {tree.file} or as {variable(keys)}", tree.file)
    elif kind == "value_error":
        for line in str(context["error"]).splitlines():
            tree.problem(keys, line)
    elif kind == "greater_than_equal":
        tree.problem(keys, f"must be at least {context['ge']}")
    elif kind == "greater_than":
        tree.problem(keys, f"must be more than {context['gt']}")
    else:
        tree.problem(keys, _PLAIN.get(kind, item["msg"]).replace("{keys}", ".".join(keys)))


def _named_already(tree: Tree, keys: Keys) -> bool:
    """A value that could not be read is not missing too."""
    return any(f": {'.'.join(keys)}: " in problem for problem in tree.problems)
