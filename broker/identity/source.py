"""Something that decides who comes in, read from files that may change under a running daemon, and its last good reading.

A file that fails to load never widens or empties anything: the last good reading stays (I7). A file that is just being
written may hold half of a deny list, and be good: only what two looks in a row have seen is taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeAlias, TypeVar

from broker.errors import ConfigError, unreadable
from broker.permissions import public_problem, secret_problem
from broker.process import read_file

T = TypeVar("T")
_Mark: TypeAlias = tuple[int, ...]

# Looks for which a changed file is read again, whatever its times say: within one tick of the file system's clock two
# writes of equal length look alike.
_RESTLESS = 8
# Looks after which something refused is judged again: a certificate may have become valid, a clock been put right.
_AGAIN = 240


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

    @property
    def unsettled(self) -> bool: ...  # the newest reading has to be seen once more

    def look(self, *, closely: bool = False) -> Found[T] | None: ...

    def adopt(self, found: Found[T]) -> None: ...

    def refuse(self, problems: Sequence[str]) -> bool: ...

    def again(self) -> None: ...  # what it is judged by may be another


class LastGood(Generic[T]):
    """What is in force, and what became of the newest reading."""

    def __init__(self, name: str, value: T, digest: bytes) -> None:
        """`digest`: of what `value` was read from."""
        self.name = name
        self._value = value
        self._seen = self._adopted = digest
        self._refused = b""
        self._problems: tuple[str, ...] = ()
        self._again = False
        self._looks = 0  # since it was refused

    @property
    def value(self) -> T:
        return self._value

    @property
    def problems(self) -> Sequence[str]:
        return self._problems

    @property
    def unsettled(self) -> bool:
        """The newest reading is neither in force nor refused: it has to be seen once more."""
        return self._seen not in (self._adopted, self._refused)

    def adopt(self, found: Found[T]) -> None:
        """It is in force from now on."""
        self._value, self._adopted, self._refused, self._problems = found.value, found.digest, b"", ()

    def refuse(self, problems: Sequence[str]) -> bool:
        """It is not; the last good one stays. False when this was refused for the same already."""
        before = self._refused, self._problems
        self._refused, self._problems, self._looks = self._seen, tuple(problems), 0
        return before != (self._refused, self._problems)

    def again(self) -> None:
        """Judge what is refused once more: what it is judged by may be another."""
        self._again = bool(self._problems)

    def _count(self, *, closely: bool) -> None:
        """At the beginning of a look."""
        self._looks += 1
        if closely or self._looks >= _AGAIN:
            self._looks = 0
            self.again()

    def _is_news(self, digest: bytes) -> bool:
        """Neither in force nor refused before. To be asked once for each reading."""
        if digest == self._adopted:
            self._refused, self._problems = b"", ()
        again, self._again = self._again, False
        return digest != self._adopted and (again or digest != self._refused)


class FileSource(LastGood[T]):
    """One or more files that are read together. Every method but `value` blocks; for one thread at a time."""

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        parse: Callable[[Sequence[bytes], T | None], T],
        *,
        max_bytes: int,
        secrets: Collection[Path] = (),
        otherwise: T | None = None,
    ) -> None:
        """Load for the first time.

        Args:
            name: for people.
            paths: what is read, in this order.
            parse: contents and the value in force → value; raises ConfigError.
            max_bytes: of one file; more is not read.
            secrets: those that nobody else may read.
            otherwise: in force as long as nothing good was read.

        Raises ConfigError when it is not good, and there is nothing else: no last good one to keep.
        """
        self.name = name  # in what `_read` raises
        self._paths = tuple(paths)
        self._parse = parse
        self._max_bytes = max_bytes
        self._secrets = frozenset(secrets)
        try:
            contents = self._read()
            super().__init__(name, parse(contents, None), digest_of(contents))
        except ConfigError:
            if otherwise is None:
                raise
            super().__init__(name, otherwise, b"")  # the first look says what is wrong
        self._marks = self._look_at()
        self._restless = _RESTLESS

    def look(self, *, closely: bool = False) -> Found[T] | None:
        """What the files hold now, when that is something new and they have come to rest.

        `closely`: read them even when nothing tells of a change, and judge again what is refused. Raises ConfigError when
        it is not good, and expects to be told so with `refuse`.
        """
        self._count(closely=closely)
        marks = self._look_at()
        if marks != self._marks or closely:
            self._restless = _RESTLESS
        if not self._restless and not self._again:
            return None
        self._restless = max(self._restless - 1, 0)
        self._marks = marks
        problem: ConfigError | None = None
        contents: Sequence[bytes] = ()
        try:
            contents = self._read()
            digest = digest_of(contents)
        except ConfigError as error:
            problem, digest = error, digest_of([str(error).encode()])
        settled, self._seen = digest == self._seen, digest
        if not settled or not self._is_news(digest):
            return None
        if problem is not None:
            raise problem
        return Found(value=self._parse(contents, self._value), digest=digest)

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
        content = read_file(path, max_bytes)
    except OSError as error:
        raise ConfigError([f"{path}: {unreadable(error)}"]) from None
    if len(content) > max_bytes:
        raise ConfigError([f"{path}: over {max_bytes} bytes"])
    return content


def digest_of(contents: Sequence[bytes]) -> bytes:
    """What is the same only for the same contents."""
    whole = hashlib.sha256()
    for content in contents:
        whole.update(hashlib.sha256(content).digest())
    return whole.digest()
