"""The files of a workflow definition, read for `stepcred digest`."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from stepcred._digest import NAMELESS

MAX_BYTES = 64 * 1024 * 1024  # of all files together; a definition is text
MAX_FILES = 10_000
STDIN = "-"


class Unusable(Exception):
    """Files that make no definition; the text says which, and why."""


def read(paths: Sequence[str], base: str | None) -> dict[str, bytes]:
    """Name → content. One FILE without a base is nameless; everything else is named relative to `base`, or to this folder.

    A FILE that is a link counts as what it leads to: schedulers mount definitions as links, and what is read is what is
    hashed. A link inside a folder is refused: it may lead out of the definition, or in a circle.
    Raises Unusable.
    """
    if list(paths) == [STDIN]:
        return {NAMELESS: _bounded(sys.stdin.buffer.read(MAX_BYTES + 1))}
    if STDIN in paths:
        raise Unusable("standard input (-) can only be a definition alone: among others it has no name")
    if len(paths) == 1 and base is None and not (path := _whole(paths[0])).is_dir():
        return {NAMELESS: _content(path, MAX_BYTES)}
    files: dict[str, bytes] = {}
    left = MAX_BYTES
    for path in _expanded(paths):
        name = _name(path, base or ".")
        if name in files:
            raise Unusable(f"{_show(path)}: given twice")
        if len(files) == MAX_FILES:
            raise Unusable(f"more than {MAX_FILES} files; a definition is smaller")
        files[name] = _content(path, left)
        left -= len(files[name])
    return files


def _whole(path: str) -> Path:
    if not path:
        raise Unusable("a FILE without a name")
    return Path(os.path.abspath(path))  # noqa: PTH100  # links stay: a file has the name that it was given by


def _expanded(paths: Sequence[str]) -> Iterator[Path]:
    for path in map(_whole, paths):
        if path.is_dir():
            yield from _below(path)
        else:
            yield path


def _below(top: Path) -> Iterator[Path]:
    """Every file, hidden ones too: what is left out silently could be changed silently."""
    empty = True
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise Unusable(f"{_show(folder)}: {error.strerror}") from None
        for entry in entries:
            if entry.is_symlink():
                raise Unusable(f"{_show(Path(entry))}: a link inside a folder; name its target instead of the folder")
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry))
            else:
                empty = False
                yield Path(entry)
    if empty:
        raise Unusable(f"{_show(top)}: holds no file")


def _name(path: Path, base: str) -> str:
    name = os.path.relpath(path, _whole(base)).replace(os.sep, "/")
    if name.split("/", 1)[0] in ("..", "."):
        raise Unusable(
            f"{_show(path)}: lies outside of {_show(Path(base))}; set --base to a folder that holds all files"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise Unusable(f"{_show(path)}: its name is not UTF-8") from None
    return name


def _content(path: Path, limit: int) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for ever
            raise Unusable(f"{_show(path)}: not a regular file; give a stream as -")
        with path.open("rb") as file:
            return _bounded(file.read(limit + 1), limit)
    except OSError as error:
        raise Unusable(f"{_show(path)}: {error.strerror}") from None


def _bounded(content: bytes, limit: int = MAX_BYTES) -> bytes:
    if len(content) > limit:
        raise Unusable(f"more than {MAX_BYTES // (1024 * 1024)} MiB in all; a definition is smaller")
    return content


def _show(path: Path) -> str:
    """A name in a message: without anything that a terminal would obey."""
    return str(path) if str(path).isprintable() else ascii(str(path))
