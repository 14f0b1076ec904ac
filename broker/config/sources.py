"""Three sources into one tree, remembering where each value came from."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from broker.config.values import Address

PREFIX = "STEPCRED_BROKER_"
CONFIG_VARIABLE = PREFIX + "CONFIG"  # names the file itself
# A Kubernetes Service called "stepcred-broker" puts its links into every pod under our own prefix.
_SERVICE_LINK = re.compile(r"SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?", re.ASCII)
_SECRET_KEY = re.compile(r"passw|secret|token|private|credential|passphrase|(?:^|_)key$", re.IGNORECASE)
FLAGS = {"listen.grpc": "--listen", "log.level": "--log-level", "log.format": "--log-format"}

Keys = tuple[str, ...]


@dataclass(kw_only=True, slots=True)
class Tree:
    """Nested values as pydantic takes them, with the source of each, and what was wrong on the way."""

    file: str
    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[Keys, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def put(self, keys: Keys, value: object, source: str) -> None:
        """A later source wins over an earlier one."""
        self.values_at(keys[:-1])[keys[-1]] = value
        self.sources[keys] = source

    def values_at(self, keys: Keys) -> dict[str, Any]:
        """The values of a section, empty when it was not there."""
        node = self.values
        for key in keys:
            node = node.setdefault(key, {})
        return node

    def source(self, keys: Keys) -> str:
        """Where a value, or the values of a section, came from; the file, for what nobody has set."""
        found = [source for key, source in self.sources.items() if key[: len(keys)] == keys]
        return ", ".join(dict.fromkeys(found)) or self.file

    def problem(self, keys: Keys, message: str, source: str = "") -> None:
        """Add one line: source, key, what is wrong and what to do."""
        self.problems.append(f"{source or self.source(keys)}: {'.'.join(keys)}: {message}")


@lru_cache
def schema(section: type) -> dict[str, Any]:
    """Key → its plain type: a section's dataclass, or that of a value."""
    hints = get_type_hints(section, include_extras=False)
    return {item.name: _plain(hints[item.name]) for item in fields(section)}


def _plain(hint: object) -> object:
    if get_origin(hint) is Annotated:
        return _plain(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return _plain(next(arg for arg in get_args(hint) if arg is not type(None)))
    return hint


def leaves(section: type, above: Keys = ()) -> Iterator[Keys]:
    """Every key that takes a value."""
    for key, kind in schema(section).items():
        if is_section(kind):
            yield from leaves(kind, (*above, key))
        else:
            yield (*above, key)


def is_section(kind: Any) -> bool:
    """Keys below it, and no value of its own."""
    return is_dataclass(kind) and kind is not Address


def variable(keys: Keys) -> str:
    """The environment variable that sets a key."""
    return PREFIX + "__".join(keys).upper()


def add_file(tree: Tree, section: type, values: Mapping[str, object], above: Keys = ()) -> None:
    """Take what the file says; unknown keys and secrets become problems."""
    known = schema(section)
    for key, value in values.items():
        keys = (*above, key)
        kind = known.get(key)
        if kind is None:
            _unknown(tree, section, keys, tree.file)
        elif not is_section(kind):
            tree.put(keys, value, tree.file)
        elif isinstance(value, Mapping):
            tree.values_at(keys)
            add_file(tree, kind, value, keys)
        else:
            tree.problem(keys, f"is a section; write [{'.'.join(keys)}] and its keys below")
            tree.values_at(keys)


def add_environment(tree: Tree, root: type, environ: Mapping[str, str]) -> None:
    """Take STEPCRED_BROKER_SECTION__KEY; other variables of the prefix become problems."""
    for name in settings_in(environ):
        if name != CONFIG_VARIABLE:
            rest = name.removeprefix(PREFIX)
            add_text(tree, root, tuple(rest.lower().split("__")), environ[name], name)


def settings_in(environ: Mapping[str, str]) -> list[str]:
    """The variables that are settings of a daemon's, sorted."""
    found = (name for name in environ if name.startswith(PREFIX))
    return sorted(name for name in found if not _SERVICE_LINK.fullmatch(name.removeprefix(PREFIX)))


def add_text(tree: Tree, root: type, keys: Keys, text: str, source: str) -> None:
    """Take one value written as text, by a variable or a flag."""
    section: Any = root
    for depth, key in enumerate(keys):
        kind = schema(section).get(key)
        last = depth == len(keys) - 1
        if kind is None or is_section(kind) is last:
            _unknown(tree, section, keys[: depth + 1], source)
            return
        section = kind
    try:
        tree.put(keys, _from_text(section, text), source)
    except ValueError as error:
        tree.problem(keys, str(error), source)


def _from_text(kind: object, text: str) -> object:
    """Numbers and switches as TOML would have given them; everything else stays text."""
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("must be true or false")
        return text.lower() == "true"
    if kind in (int, float):
        try:
            return int(text) if kind is int else float(text)
        except ValueError:
            raise ValueError("must be a number") from None
    return text


def _unknown(tree: Tree, section: type, keys: Keys, source: str) -> None:
    key = keys[-1]
    known = schema(section)
    as_variable = source.startswith(PREFIX)
    if _SECRET_KEY.search(key) and not key.endswith("_file"):
        files = [name for name in known if name.endswith("_file")]
        file_key = difflib.get_close_matches(f"{key}_file", files, n=1, cutoff=0.75)
        instead = f"set {'.'.join((*keys[:-1], file_key[0]))}" if file_key else "name that file instead"
        tree.problem(keys, f"looks like a secret; put it into a file of mode 600 and {instead}", source)
        return
    if key in known:
        written = f"{variable(keys)}__<KEY>" if as_variable else f"[{'.'.join(keys)}]"
        what = f"is a section; set {written}" if is_section(known[key]) else "is a value, and has no keys below it"
        tree.problem(keys, what, source)
        return
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        better = (*keys[:-1], near[0])
        hint = f'did you mean "{variable(better) if as_variable else near[0]}"?'
    else:
        hint = f"known here: {', '.join(sorted(known))}"
    tree.problem(keys, f"unknown key; {hint}", source)
