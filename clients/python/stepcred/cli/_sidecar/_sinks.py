"""Credentials in files, for programs that read one: replaced at one stroke with each successor, gone at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from stepcred._credentials import Credential
from stepcred._outlets import PrivateFile, Unusable, fill, render, scopes_of, usual
from stepcred.cli._sidecar._places import FileOf, Template

MakeFile = Callable[[Path], PrivateFile]


class Sinks:
    """All files of one sidecar. What fails raises Unusable or OSError."""

    def __init__(self, files: Sequence[FileOf], templates: Sequence[Template], make: MakeFile) -> None:
        """Raises Unusable for a place that is none for a secret; nothing is written yet."""
        self._live: dict[str, Credential] = {}
        self._files = [(make(one.path), one) for one in files]
        self._templates = [(make(one.path), one, frozenset(scopes_of(one.text))) for one in templates]
        for file in self._all():
            file.check()

    @property
    def scopes(self) -> list[str]:
        """What they are made of."""
        named = [one.scope for _, one in self._files]
        return list(dict.fromkeys([*named, *(scope for _, one, _ in self._templates for scope in scopes_of(one.text))]))

    def put(self, credential: Credential) -> None:
        """Write every file that it is in, and for which everything is there."""
        scope = credential.lease.scope
        self._live[scope] = credential
        for file, one in self._files:
            if one.scope == scope:
                file.write(render(credential, one.what or usual(credential)))
        for file, template, scopes in self._templates:
            if scope in scopes and scopes <= self._live.keys():
                file.write(_filled(template, self._live))

    def drop(self, scope: str) -> None:
        """It is dead: no file with it stays."""
        self._live.pop(scope, None)
        for file, one in self._files:
            if one.scope == scope:
                file.remove()
        for file, _, scopes in self._templates:
            if scope in scopes:
                file.remove()

    def remove(self) -> None:
        """All of them, as far as that is possible."""
        self._live.clear()
        for file in self._all():
            with contextlib.suppress(OSError, Unusable):
                file.remove()

    def _all(self) -> Iterator[PrivateFile]:
        yield from (file for file, _ in self._files)
        yield from (file for file, _, _ in self._templates)


def _filled(template: Template, credentials: dict[str, Credential]) -> bytes:
    try:
        return fill(template.text, credentials)
    except Unusable as problem:
        raise Unusable(f"template for {template.path}: {problem}") from None
