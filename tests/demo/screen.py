"""What the demo shows, and its count of what held."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

WIDTH = 100  # column at which timings end


class Screen:
    """Prints the story; every `check` is counted. Colour only on a terminal, and not with NO_COLOR."""

    def __init__(self) -> None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace", line_buffering=True)
        plain = False if os.environ.get("NO_COLOR") else None  # rich itself would still print in bold
        self._console = Console(force_terminal=plain, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._chapters = 0
        self.passed = 0
        self.failed = 0

    def title(self, text: str) -> None:
        self._line((text, "bold"))

    def chapter(self, text: str, who: str = "") -> None:
        """A numbered heading; `who` is a SPIFFE ID."""
        self._chapters += 1
        self._line()
        self._line((f"{self._chapters}  ", "bold cyan"), (text, "bold"), (f"  {who}" if who else "", "cyan"))

    def note(self, *lines: str) -> None:
        """What the reader should know."""
        for line in lines:
            self._line((f"     {line}", "yellow"))

    def command(self, text: str, comment: str = "") -> None:
        """What somebody types."""
        self._line(("   $ ", "bold"), (text, "bold"), (f"   # {comment}" if comment else "", "bright_black"))

    def output(self, lines: Iterable[str]) -> None:
        """What it answered."""
        for line in lines:
            for part in textwrap.wrap(line, WIDTH - 5, subsequent_indent="  ") or [""]:
                self._line(("   │ ", "dim"), (part, "bright_black"))

    def check(self, text: str, held: object, *, seconds: float | None = None, seen: object = "") -> bool:
        """Count one expectation; `seen` is shown when it does not hold."""
        ok = bool(held)
        self.passed += ok
        self.failed += not ok
        text += "" if ok or seen == "" else f": {seen}"
        took = "" if seconds is None else format_seconds(seconds)
        gap = " " * max(2, WIDTH - len(text) - len(took) - 5) if took else ""
        self._line(
            ("   ✓ " if ok else "   ✗ ", "green" if ok else "bold red"),
            (text, "" if ok else "red"),
            (gap + took, "dim"),
        )
        return ok

    def total(self) -> int:
        """The last line, and the exit status."""
        self._line()
        self._line((f"demo: {self.passed} passed, {self.failed} failed", "bold red" if self.failed else "bold green"))
        return 1 if self.failed else 0

    def plain(self, *lines: str) -> None:
        for line in lines:
            self._line((line, ""))

    def table(self, rows: Iterable[tuple[str, str]]) -> None:
        """What for, and the command."""
        for purpose, command in rows:
            self._line((f"  {purpose:<36}", "bright_black"), (command, "bold"))

    def _line(self, *parts: tuple[str, str]) -> None:
        self._console.print(Text.assemble(*parts))


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start


def format_seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
