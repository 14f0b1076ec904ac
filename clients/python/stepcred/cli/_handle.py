"""A step's handle in a file: written for its owner's eyes only, and read back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stepcred._errors import SettingsError

_MAX_BYTES = 256  # a handle has 26; whatever is longer is another file


def read(path: Path) -> str:
    """Raises SettingsError."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1).decode("ascii").strip()
    except OSError as error:
        raise SettingsError([f"--handle-file: cannot read {path}: {error.strerror}"]) from None
    except UnicodeDecodeError:
        text = ""
    if not text or len(text) > _MAX_BYTES or text.split() != [text]:
        raise SettingsError([f"--handle-file: {path} holds no step handle"])
    return text


@contextmanager
def new_file(path: Path) -> Iterator[Callable[[str], None]]:
    """To be written in the block; made before a step is opened whose handle could then not be kept. Raises SettingsError.

    Never one that exists: it may be another's, or readable by everybody. Left out again when the block fails.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError([f"--handle-file: cannot make {path}: {error.strerror}"]) from None
    with os.fdopen(fd, "w") as file:
        try:
            yield lambda text: _write(file.fileno(), text)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _write(fd: int, text: str) -> None:
    os.write(fd, f"{text}\n".encode())
