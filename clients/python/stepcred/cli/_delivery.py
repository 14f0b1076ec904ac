"""What `exec` gives its child: variables and private files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from stepcred._credentials import Credential
from stepcred._outlets import (
    PrivateFile,
    PrivateFolder,
    Unusable,
    left_out,
    merged_environment,
    render,
    rivals,
    without_rivals,
)
from stepcred._settings import HANDLE
from stepcred.cli._say import Teller
from stepcred.cli._wanted import File, Wanted


class Delivery:
    """The child's variables and files. Leaving the block removes the files, and says which could not be."""

    def __init__(self, wanted: Wanted, teller: Teller) -> None:
        self._wanted = wanted
        self._teller = teller
        self._folder: PrivateFolder | None = None
        self._files: list[tuple[File, PrivateFile]] = []
        self._written: list[PrivateFile] = []

    def __enter__(self) -> Self:
        """Looks whether the places are fit. Raises Unusable, OSError."""
        try:
            for file in self._wanted.files:
                place = self._place(file)
                place.check()
                self._files.append((file, place))
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Every file that was written, and our own folder. The second time nothing."""
        while self._written:
            place = self._written.pop()
            with self._said(place.path):
                place.remove()
        if self._folder is not None:
            folder, self._folder = self._folder, None
            with self._said(folder.path):
                folder.remove()

    def environment(self, credentials: Mapping[str, Credential], environ: Mapping[str, str]) -> dict[str, str]:
        """Ours, without what would be used instead of the credentials, and with them. Raises Unusable."""
        conventional = [credentials[scope] for scope in self._wanted.conventional]
        chosen = {one.name: _text(credentials[one.scope], one.what) for one in self._wanted.variables}
        chosen |= {file.variable: str(place.path) for file, place in self._files if file.variable}
        asked = {scope for file in self._wanted.files for scope in file.scopes}
        asked |= {one.scope for one in self._wanted.variables}
        used = [*conventional, *(credentials[scope] for scope in asked if _is_usual(credentials[scope], chosen))]
        inherited = without_rivals(environ, used, chosen)
        inherited.pop(HANDLE, None)  # with it a stepcred in the child would join our step, and end it
        instead = {*chosen, *rivals([], chosen)}
        for credential in conventional:
            if unusable := left_out(credential):
                keys = ", ".join(unusable)
                self._teller.tell(
                    "left-out",
                    f"{credential.lease.scope}: left out, not usable as variables: {keys}",
                    scope=credential.lease.scope,
                    keys=unusable,
                )
        ours = {**merged_environment(conventional, without=instead), **chosen}
        if broken := next((name for name, value in ours.items() if "\0" in value), None):
            raise Unusable(f"{broken} would have a NUL, which no variable can hold")
        return {**inherited, **ours}

    def write(self, credentials: Mapping[str, Credential], *, of: str | None = None) -> None:
        """The files; with `of` those alone that have something of this scope. Raises Unusable, OSError."""
        contents = [
            (place, file.content(credentials)) for file, place in self._files if of is None or of in file.scopes
        ]
        for place, content in contents:
            if place not in self._written:
                self._written.append(place)  # before: an interrupted write may be a whole one
            place.write(content)

    def _place(self, file: File) -> PrivateFile:
        if file.path:
            return PrivateFile(file.path, allow_disk=self._wanted.allow_disk)
        if self._folder is None:
            self._folder = PrivateFolder(allow_disk=self._wanted.allow_disk)
        return self._folder.file(file.variable.lower())

    @contextlib.contextmanager
    def _said(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, Unusable) as problem:
            why = problem.strerror if isinstance(problem, OSError) else str(problem)
            self._teller.tell("not-removed", f"{path} is not removed: {why}", path=str(path))


def _is_usual(credential: Credential, chosen: Iterable[str]) -> bool:
    """A variable was chosen that programs of its kind read: what they would read instead must go."""
    with contextlib.suppress(ValueError):
        return not set(chosen).isdisjoint({*credential.CONFLICTS, *credential.env()})
    return False


def _text(credential: Credential, what: str) -> str:
    return render(credential, what).decode()
