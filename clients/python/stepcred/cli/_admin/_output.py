"""Tables that fit a terminal and go through a pipe, and the same as JSON.

Names and words come from agents and from other operators: nothing in them may write to the terminal.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepcred._errors import BrokerUnavailable, DeadlineExceeded
from stepcred.cli import _exits

MINUTES = "%Y-%m-%d %H:%M UTC"
_WIDE = 2000  # columns of a pipe: nothing is cut
_ENDLESS = 250  # characters of one cell at most, on a terminal
_ENDLESS_IN_A_PIPE = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """Of a table. One that is not `fixed` gives way when the terminal is narrow: it is cut, or goes on below as `words`."""

    title: str
    fixed: bool = False
    right: bool = False
    words: bool = False


def safe(text: str) -> str:
    """Without anything that a terminal would obey; bounded."""
    most = _ENDLESS if is_terminal() else _ENDLESS_IN_A_PIPE
    text = text if len(text) <= most else text[:most] + "…"
    return text if text.isprintable() else ascii(text)[1:-1]


def is_terminal() -> bool:
    """Standard output is somebody's screen."""
    return bool(sys.stdout) and sys.stdout.isatty()


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, styles: Mapping[str, str] | None = None) -> None:
    """Print one. `styles`: of whole cells, by their text; only on a terminal."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column.title, no_wrap=column.fixed, justify="right" if column.right else "left")
    for row in rows:
        made.add_row(*(_cell(column, text, styles or {}) for column, text in zip(columns, row, strict=True)))
    emit(made)


def _cell(column: Column, text: str, styles: Mapping[str, str]) -> Text:
    style = styles.get(text, "")
    if column.words:
        return Text(safe(text), overflow="fold", style=style)
    return Text(safe(text), no_wrap=True, overflow="ellipsis", style=style)


def grid(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values, one below the other. A value may be as long as it likes."""
    made = Table(show_header=False, box=None, pad_edge=False)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(Text(name), Text(safe(value)))
    emit(made)


def emit(what: Any) -> None:
    """On standard output; to a pipe without colours, without ends of lines that are blanks, and as wide as need be."""
    if is_terminal():
        Console(markup=False, highlight=False, emoji=False).print(what)
        return
    buffer = io.StringIO()
    Console(file=buffer, width=_WIDE, markup=False, highlight=False, emoji=False, color_system=None).print(what)
    for line in buffer.getvalue().splitlines():
        say(line.rstrip())


def many(count: int, what: str) -> str:
    """1 lease, 2 leases."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def say(text: str = "") -> None:
    """One line of our own words, or of words that are `safe`."""
    print(text)  # noqa: T201


def as_json(value: Any, *, compact: bool = False) -> None:
    """A protobuf message, or what json takes. Times are RFC 3339, what is empty is there, too."""
    say(json.dumps(plain(value), indent=None if compact else 2, default=str))


def plain(value: Any) -> Any:
    """As JSON has it, with the contract's own names. Spans are seconds; a time that is not set is null."""
    if hasattr(value, "DESCRIPTOR"):
        return _message(value)
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    return [plain(one) for one in value]


def _message(value: Any) -> Any:
    match value.DESCRIPTOR.full_name:
        case "google.protobuf.Timestamp":
            return plain(moment(value))
        case "google.protobuf.Duration":
            return value.ToTimedelta().total_seconds()
        case "google.protobuf.Struct":
            return MessageToDict(value)
    return {field.name: _field(value, field) for field in value.DESCRIPTOR.fields}


def _field(message: Any, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.has_presence and not message.HasField(field.name):
        return None
    return field.enum_type.values_by_number[value].name if field.enum_type else plain(value)


# --- times ---


def moment(stamp: Any) -> datetime | None:
    """Of a protobuf Timestamp; None when it is not set."""
    return stamp.ToDatetime(UTC) if stamp.seconds or stamp.nanos else None


def date(stamp: Any) -> str:
    """To the minute; "" when it is not set."""
    at = moment(stamp)
    return f"{at:{MINUTES}}" if at else ""


def ago(stamp: Any, now: datetime) -> str:
    """How long since then; "" when it is not set."""
    at = moment(stamp)
    return span(now - at) if at else ""


def left(stamp: Any, now: datetime) -> str:
    """How long until then; "over" when it is past, "" when it is not set."""
    at = moment(stamp)
    if at is None:
        return ""
    return span(at - now) if at > now else "over"


def span(length: timedelta) -> str:
    """Short: 45s, 12m, 3h05, 6d."""
    seconds = max(0, int(length.total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days > 1:
        return f"{days}d"
    if hours:
        return f"{hours}h{minutes % 60:02}"
    return f"{minutes}m" if minutes else f"{seconds}s"


def now() -> datetime:
    """This machine's clock, for ages."""
    return datetime.now(UTC)


# --- again and again ---


def watch(every: float | None, show: Callable[[], int]) -> int:
    """Once, or every so many seconds until somebody interrupts it. A broker that is away for a while ends nothing."""
    if every is None:
        return show()
    try:
        while True:
            _clear()
            try:
                show()
            except (BrokerUnavailable, DeadlineExceeded) as error:
                for line in _exits.lines_of(error):
                    print(f"stepcred: {safe(line)}", file=sys.stderr)  # noqa: T201
            sys.stdout.flush()
            time.sleep(every)
    except KeyboardInterrupt:
        return 0


def _clear() -> None:
    if is_terminal():
        Console().clear()
