"""Something that decides who comes in, read from files that may change under a running daemon, and its last good reading.

A file that fails to load never widens or empties anything: the last good reading stays (I7). A file that is just being
written may hold half of a deny list, and be good: only what two looks in a row have seen is taken.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeAlias, TypeVar

from broker.errors import ConfigError, unreadable
from broker.permissions import public_problem, secret_problem

T = TypeVar("T")
_Mark: TypeAlias = tuple[int, ...]

# Looks for which a changed file is read again, whatever its times say: within one tick of the file system's clock two
# writes of equal length look alike.
_RESTLESS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Found(Generic[T]):
    """A good reading that is not in force yet."""

    value: T
    digest: bytes


class Source(Protocol[T]):
    """Where one part of the trust comes from."""

    name: str  # for people, for example "agents' trust bundle"

    @property
    def value(self) -> T: ...  # the last good one

    @property
    def problems(self) -> Sequence[str]: ...  # of the newest reading, while it is refused

    def look(self, *, closely: bool = False) -> Found[T] | None: ...

    def adopt(self, found: Found[T]) -> None: ...

    def refuse(self, problems: Sequence[str]) -> None: ...

    def reconsider(self) -> None: ...  # what it was refused for may have changed elsewhere


class FileSource(Generic[T]):
    """One or more files that are read together. Every method but `value` blocks; for one thread at a time."""

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        parse: Callable[[Sequence[bytes], T | None], T],
        *,
        max_bytes: int,
        secrets: Collection[Path] = (),
    ) -> None:
        """Load for the first time.

        Args:
            name: for people.
            paths: what is read, in this order.
            parse: contents and the value in force → value; raises ConfigError.
            max_bytes: of one file; more is not read.
            secrets: those that nobody else may read.

        Raises ConfigError when it is not good: there is no last good one to keep.
        """
        self.name = name
        self._paths = tuple(paths)
        self._parse = parse
        self._max_bytes = max_bytes
        self._secrets = frozenset(secrets)
        contents = self._read()
        self._value = parse(contents, None)
        self._marks = self._look_at()
        self._seen = self._adopted = digest_of(contents)
        self._restless = _RESTLESS
        self._problems: tuple[str, ...] = ()
        self._refused = b""  # what was refused last, so that it is told once

    @property
    def value(self) -> T:
        return self._value

    @property
    def problems(self) -> Sequence[str]:
        return self._problems

    def look(self, *, closely: bool = False) -> Found[T] | None:
        """What the files hold now, when that is something new and they have come to rest.

        `closely`: read them even when nothing tells of a change. Raises ConfigError when it is not good, once for each
        change.
        """
        marks = self._look_at()
        if marks != self._marks or closely:
            self._restless = _RESTLESS
        if not self._restless:
            return None
        self._restless -= 1
        self._marks = marks
        problem: ConfigError | None = None
        contents: Sequence[bytes] = ()
        try:
            contents = self._read()
            digest = digest_of(contents)
        except ConfigError as error:
            problem, digest = error, digest_of([str(error).encode()])
        settled, news = digest == self._seen, digest not in (self._adopted, self._refused)
        self._seen = digest
        if digest == self._adopted:
            self._problems = ()
        if not settled or not news:
            return None
        if problem is not None:
            self._refused = digest
            raise problem
        try:
            return Found(value=self._parse(contents, self._value), digest=digest)
        except ConfigError:
            self._refused = digest
            raise

    def adopt(self, found: Found[T]) -> None:
        """It is in force from now on."""
        self._value, self._adopted, self._refused, self._problems = found.value, found.digest, b"", ()

    def refuse(self, problems: Sequence[str]) -> None:
        """It is not; the last good one stays."""
        self._problems, self._refused = tuple(problems), self._seen

    def reconsider(self) -> None:
        """What was refused is read and judged again, although the files have not changed."""
        if self._problems:
            self._refused, self._restless = b"", _RESTLESS

    def _look_at(self) -> tuple[_Mark, ...]:
        return tuple(_mark(path) for path in self._paths)

    def _read(self) -> list[bytes]:
        problems: list[str] = []
        contents: list[bytes] = []
        for path in self._paths:
            try:
                contents.append(_read(path, self._max_bytes, secret=path in self._secrets))
            except ConfigError as error:
                name = self.name.removesuffix(f" {path}")
                problems += [f"{name} {problem}" for problem in error.problems]
        if problems:
            raise ConfigError(problems)
        return contents


def _mark(path: Path) -> _Mark:
    """What changes with the file, also behind a link (Kubernetes swaps `..data`)."""
    try:
        found = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path, max_bytes: int, *, secret: bool) -> bytes:
    try:
        if (
            problem := secret_problem(path) if secret else public_problem(path)
        ):  # whoever writes it decides whom to let in
            raise ConfigError([f"{path}: {problem}"])
        content = _content(path, max_bytes)
    except OSError as error:
        raise ConfigError([f"{path}: {unreadable(error)}"]) from None
    if len(content) > max_bytes:
        raise ConfigError([f"{path}: over {max_bytes} bytes"])
    return content


def _content(path: Path, max_bytes: int) -> bytes:
    """A byte more than `max_bytes` at most. Only of a file: a pipe that nobody writes to would hold up every look."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ConfigError([f"{path}: is not a file; put one there"])
        return file.read(max_bytes + 1)


def digest_of(contents: Sequence[bytes]) -> bytes:
    """What is the same only for the same contents."""
    whole = hashlib.sha256()
    for content in contents:
        whole.update(hashlib.sha256(content).digest())
    return whole.digest()
