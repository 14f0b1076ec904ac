"""The operators file: YAML text → who operators are, or every mistake with its place.

Whoever writes this file decides who may decide. It says so in one place only: nothing is taken from certificates but the
SPIFFE ID, and nothing from the scope map.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from broker.identity.spiffe import SpiffeIdError, parse_spiffe_id
from broker.operators.duties import Signers
from broker.operators.model import Operator, Role, Sealed
from broker.operators.sealing import SealBroken, SealingKey
from broker.policy.language.document import Document, Path, read_document
from broker.policy.language.schema.entries import Strict
from broker.policy.language.schema.read import read_entry
from broker.policy.language.schema.values import Choice, Version
from broker.policy.problems import Problem, ScopeMapError, did_you_mean, named, show

MOST_OPERATORS = 1000
MOST_LISTED = 100  # ids, groups, keys of one operator
MOST_REVISIONS = 1_000_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)
NOT_A_NAME = "not a name: letters, digits and . _ @ + -, at most 64"


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorsFile:
    """Everybody in it. Immutable."""

    operators: Mapping[str, Operator] = field(default_factory=lambda: MappingProxyType({}))
    digest: str = ""  # SHA-256 of the text, hex; "" when nothing good was ever read
    key: SealingKey | None = None  # that opens its second factors; read together with it
    by_id: Mapping[str, Operator] = field(default_factory=lambda: MappingProxyType({}))
    by_key: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # signing key → operator's name

    def of(self, spiffe_id: str) -> Operator | None:
        """Whose certificate this is; by the letter."""
        return self.by_id.get(spiffe_id)

    def owner_of_key(self, name: str) -> Operator | None:
        """Who signs scope maps with this key of [scopes.keys]."""
        return self.operators.get(self.by_key.get(name, ""))

    def signers(self, keys: Collection[str], *, may_approve: bool) -> Signers:
        """`keys`: that signed the map in force; `may_approve`: what it says of them."""
        return Signers(keys=frozenset(keys), owners=self.by_key, may_approve=may_approve)


NOBODY = OperatorsFile()


def _few(values: list[str]) -> list[str]:
    if len(values) > MOST_LISTED:
        raise ValueError(f"more than {MOST_LISTED}")
    return values


def _revision(value: int) -> int:
    if not 1 <= value <= MOST_REVISIONS:
        raise ValueError(f"between 1 and {MOST_REVISIONS}")
    return value


_Few = Annotated[list[str], AfterValidator(_few)]


class _Head(Strict):
    version: Version
    operators: dict[str, Any]


class _Factor(Strict):
    revision: Annotated[int, AfterValidator(_revision)]
    sealed: str


class _Entry(Strict):
    ids: _Few
    roles: Annotated[list[Annotated[Role, Choice(Role, "a role")]], AfterValidator(_few)] = Field([])
    groups: _Few = Field([])
    keys: _Few = Field([])
    second_factor: _Factor | None = None
    description: str = ""


@dataclass(kw_only=True, slots=True)
class _Reader:
    document: Document
    trust_domain: str | None  # None: whichever
    keys: Collection[str] | None  # None: whichever
    sealing: SealingKey | None
    opens: bool  # are sealed secrets to be opened?
    problems: list[Problem] = field(default_factory=list)
    taken: dict[tuple[str, str], Path] = field(default_factory=dict)  # (what, text) → where it stands first

    def operator(self, name: str, data: object) -> Operator | None:
        """One entry; None when it has mistakes."""
        path: Path = ("operators", name)
        before = len(self.problems)
        if not NAME.fullmatch(name):
            self.complain(path, NOT_A_NAME, key=True)
        self.mine("name", name.casefold(), path)
        entry = read_entry(_Entry, data, path, self.document, self.problems)
        if entry is None:
            return None
        self.lists(entry, path)
        factor = entry.second_factor
        sealed = Sealed(revision=factor.revision, text=factor.sealed) if factor else None
        if sealed is not None and self.opens:
            self.opened(name, sealed, (*path, "second_factor"))
        if len(self.problems) > before:
            return None
        return Operator(
            name=name,
            roles=frozenset(entry.roles),
            ids=tuple(entry.ids),
            groups=frozenset(entry.groups),
            keys=frozenset(entry.keys),
            second_factor=sealed,
        )

    def lists(self, entry: _Entry, path: Path) -> None:
        """Each of its texts by itself."""
        if not entry.ids:
            self.complain((*path, "ids"), "names no SPIFFE ID; nobody could come as this operator")
        for number, text in enumerate(entry.ids):
            self.id(text, (*path, "ids", number))
        for number, text in enumerate(entry.groups):
            if not NAME.fullmatch(text):
                self.complain((*path, "groups", number), f"{NOT_A_NAME}; without 'group:'")
        for number, text in enumerate(entry.keys):
            self.key(text, (*path, "keys", number))
        for what in ("roles", "groups"):
            self.distinct(getattr(entry, what), (*path, what))

    def id(self, text: str, path: Path) -> None:
        """By the letter, of the operators' trust domain, and nobody else's."""
        try:
            found = parse_spiffe_id(text)
        except SpiffeIdError as error:
            self.complain(path, str(error))
            return
        if self.trust_domain is not None and found.trust_domain != self.trust_domain:
            self.complain(path, f"of another trust domain; operators are of {show(self.trust_domain)}")
        self.mine("id", text, path)

    def key(self, text: str, path: Path) -> None:
        """One that exists, and nobody else's."""
        if self.keys is not None and text not in self.keys:
            self.complain(path, f"[scopes.keys] has no key{named(text)}{did_you_mean(text, self.keys)}")
        self.mine("key", text, path)

    def mine(self, what: str, text: str, path: Path) -> None:
        """Of one operator, and once: else one person would count as two, or nobody could tell whose act it was."""
        first = self.taken.setdefault((what, text), path)
        if first != path:
            here = first[1] == path[1]
            whose = "is listed twice" if here else f"is of operator {show(str(first[1]))} too; each has its own"
            self.complain(path, f"this {what} {whose}", key=what == "name")

    def distinct(self, values: Collection[object], path: Path) -> None:
        """No entry twice."""
        if len(set(values)) != len(values):
            self.complain(path, "an entry is listed twice")

    def opened(self, name: str, sealed: Sealed, path: Path) -> None:
        """With the very name and revision that stand here."""
        if self.sealing is None:
            self.complain(path, "there is no operators.second_factor_key_file to open it with", key=True)
            return
        try:
            self.sealing.open(name, sealed)
        except SealBroken:
            message = "was not sealed for this operator and revision under this broker's key; seal a new one"
            self.complain((*path, "sealed"), f"of operator {show(name)}: {message}")

    def complain(self, path: Path, message: str, *, key: bool = False) -> None:
        """A mistake at this place."""
        self.problems.append(self.document.problem(path, message, key=key))


def read_operators(
    raw: bytes,
    file: str,
    *,
    trust_domain: str | None = None,
    keys: Collection[str] | None = None,
    sealing: SealingKey | None = None,
    opens: bool = True,
) -> OperatorsFile:
    """Read the whole file.

    Args:
        raw: its text.
        file: its name, for the mistakes.
        trust_domain: of the operators; None: whichever.
        keys: names in [scopes.keys]; None: whichever.
        sealing: opens the second factors.
        opens: are they to be opened? Only a tool without the key may not.

    Raises ScopeMapError with every mistake.
    """
    document = read_document(raw, file)
    problems: list[Problem] = []
    head = read_entry(_Head, document.data, (), document, problems)
    entries = head.operators if head else _lenient(document)
    if len(entries) > MOST_OPERATORS:
        raise ScopeMapError([document.problem(("operators",), f"more than {MOST_OPERATORS} operators", key=True)])
    reader = _Reader(
        document=document, trust_domain=trust_domain, keys=keys, sealing=sealing, opens=opens, problems=problems
    )
    found = {name: one for name, data in entries.items() if (one := reader.operator(name, data)) is not None}
    if problems:
        raise ScopeMapError(problems)
    return OperatorsFile(
        operators=MappingProxyType(found),
        digest=hashlib.sha256(raw).hexdigest(),
        key=sealing,
        by_id=MappingProxyType({text: one for one in found.values() for text in one.ids}),
        by_key=MappingProxyType({key: one.name for one in found.values() for key in one.keys}),
    )


def _lenient(document: Document) -> Mapping[str, object]:
    """The entries of a file whose head has mistakes, so that theirs are reported as well."""
    found = document.data.get("operators") if isinstance(document.data, dict) else None
    return found if isinstance(found, dict) else {}
