"""`extends`: a file and those that it narrows, as one document whose every value knows the file it stands in.

Joined as by a JSON merge patch (RFC 7396): mappings are joined key by key, anything else replaces, and null takes away;
but `tests` are added. That the result only narrows is checked afterwards, by what it allows (`narrowing`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from broker.model import JsonValue
from broker.policy.language.document import Document, Mark, Path, read_document
from broker.policy.language.files import Files, beside, why_not
from broker.policy.problems import Problem, ScopeMapError, show

MAX_LAYERS = 5
OPEN = "constants"  # where null in a base means "the map that extends it says it", and nothing else may be said


def read_file(files: Files, name: str, asked_by: tuple[Document, Path] | None = None) -> Document:
    """Read one file; what it cannot be read for is said where it is asked for. Raises ScopeMapError."""
    try:
        return read_document(files.read(name), files.shown(name))
    except OSError as error:
        why = why_not(error)
        if asked_by is None:
            raise ScopeMapError([Problem(file=files.shown(name), line=1, column=1, message=why)]) from None
        document, path = asked_by
        raise ScopeMapError([document.problem(path, f"{files.shown(name)} {why}")]) from None


def read_layers(files: Files, root: str) -> list[Document]:
    """The root file and, one after the other, those that it extends. Raises ScopeMapError."""
    names, layers = [root], [read_file(files, root)]
    while (reference := _extends(layers[-1])) is not None:
        try:
            name = beside(names[-1], reference)
        except ValueError as error:
            raise ScopeMapError([layers[-1].problem(("extends",), str(error))]) from None
        if name in names:
            raise ScopeMapError([layers[-1].problem(("extends",), f"{show(reference)} extends this file: a circle")])
        if len(names) == MAX_LAYERS:
            raise ScopeMapError([layers[-1].problem(("extends",), f"more than {MAX_LAYERS} files, one upon the other")])
        layers.append(read_file(files, name, (layers[-1], ("extends",))))
        names.append(name)
    return layers


def _extends(document: Document) -> str | None:
    found = document.data.get("extends") if isinstance(document.data, dict) else None
    return found if isinstance(found, str) else None


def joined(layers: list[Document]) -> Document:
    """The first one over the others. Raises ScopeMapError for a null that takes nothing away."""
    result = layers[-1]
    for layer in reversed(layers[:-1]):
        result = _Join(layer, result).document()
    return result


def under(base: Document, head: Document) -> Document:
    """A base as it stands below `head`: with its environment, trust domain and constants."""
    if not isinstance(head.data, dict) or not isinstance(base.data, dict):
        return base
    own = {key: head.data[key] for key in ("version", "environment", "trust_domain", OPEN) if key in head.data}
    marks = {place: mark for place, mark in head.values.items() if place[:1] and place[0] in own}
    kept = {place: mark for place, mark in base.values.items() if not (place[:1] and place[0] in own)}
    return Document(file=base.file, data={**base.data, **own}, keys={**base.keys}, values=kept | marks)


class _Join:
    """One layer over what it extends."""

    def __init__(self, layer: Document, base: Document) -> None:
        self._layer = layer
        self._base = base
        self._keys: dict[Path, Mark] = dict(base.keys)
        self._values: dict[Path, Mark] = dict(base.values)
        self._problems: list[Problem] = []

    def document(self) -> Document:
        data = self._join(self._layer.data, self._base.data, ())
        if self._problems:
            raise ScopeMapError(self._problems)
        return Document(file=self._layer.file, data=data, keys=self._keys, values=self._values)

    def _join(self, over: JsonValue, base: JsonValue, path: Path) -> JsonValue:
        if not isinstance(over, Mapping) or not isinstance(base, Mapping):
            self._take_away(base, path)
            self._put(over, path)
            return over
        result: dict[str, JsonValue] = {key: value for key, value in base.items() if path or key != "extends"}
        for key, value in over.items():
            place = (*path, key)
            if path == (OPEN,) and (key not in base or base[key] is not None) and value != base.get(key):
                # The base is held against this map under this map's constants: one that it may set anew is no bound.
                what = "says what it is" if key in base else "has no such constant"
                self._problems.append(
                    self._layer.problem(place, f"{self._base.file} {what}; only null may be filled in")
                )
            if value is None and path != (OPEN,):
                if key not in base:
                    message = f"null takes a key away, and {self._base.file} has none of this name"
                    self._problems.append(self._layer.problem(place, message))
                self._take_away(result.pop(key, None), place)
            elif place == ("tests",) and isinstance(value, list) and isinstance(base.get(key), list):
                result[key] = self._add_tests(value, base[key])
            else:
                result[key] = self._join(value, base.get(key), place)
                self._keys[place] = self._layer.keys[place]  # a rule stands where it was last changed
        return result

    def _take_away(self, value: JsonValue, path: Path) -> None:
        for place in _places(value, path):
            self._keys.pop(place, None)
            self._values.pop(place, None)

    def _put(self, value: JsonValue, path: Path) -> None:
        for place in _places(value, path):
            if place in self._layer.keys:
                self._keys[place] = self._layer.keys[place]
            if place in self._layer.values:
                self._values[place] = self._layer.values[place]

    def _add_tests(self, own: list[JsonValue], inherited: list[JsonValue]) -> list[JsonValue]:
        """After those of the base, so that what it promises stays promised."""
        shift = len(inherited)
        for places, found in ((self._keys, self._layer.keys), (self._values, self._layer.values)):
            for place, mark in found.items():
                if place[:1] == ("tests",) and len(place) > 1:
                    places["tests", int(place[1]) + shift, *place[2:]] = mark
        return [*inherited, *own]


def _places(value: JsonValue, path: Path) -> Iterator[Path]:
    """Of a value and all inside it; its depth is bounded by the document's."""
    yield path
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _places(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _places(item, (*path, number))
