"""What covers the panes for a while: all of one row with the command lines that act on it, and the keys."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Static

from stepcred.cli._top.table import Row

HELP = """\
1 … 6        Steps, Leases, Revocations, Guard, Approvals, Broker
tab          the next pane; shift+tab: the one before
up, down     the row; page up, page down, home, end as well
enter        all of a row, and the command lines that act on it
/            only rows that have a text; enter keeps it, escape drops it
s            another order; each pane has its own
p            pause: nothing is asked until p is pressed again
q, ctrl+c    leave

Nothing is changed from here. What colours say, words say as well.

TRY   attempts at a step, or tries to end a lease
LV    leases of a step that are not dead
LEFT  credentials that a step may still ask for, of the scope with the fewest;
      "-": it has asked for none
ENDS  in how long; of a lease: works no longer than that
"""


class Page(Screen[None]):
    """Text, from the top, until it is left."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q,enter,question_mark", "leave", "back")]

    def __init__(self, title: str, body: Text, foot: str = "escape back") -> None:
        super().__init__()
        self._texts = (title, body, foot)

    def compose(self) -> ComposeResult:
        title, body, foot = self._texts
        yield Static(Text(title, style="bold"), classes="line")
        with VerticalScroll(classes="body"):
            yield Static(body, classes="text")
        yield Static(Text(foot), classes="line keys")

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_leave(self) -> None:
        self.dismiss()


class Details(Page):
    """Keys 1 to 9 hand a command line to the terminal's clipboard (OSC 52), which works over ssh."""

    BINDINGS: ClassVar[list[BindingType]] = [(str(n), f"copy({n})", "copy") for n in range(1, 10)]

    def __init__(self, name: str, row: Row) -> None:
        self._commands = row.commands
        foot = "escape back   1-9 copy a command line" if row.commands else "escape back"
        super().__init__(name, _details(row), foot)

    def action_copy(self, number: int) -> None:
        if number > len(self._commands):
            return
        self.app.copy_to_clipboard(self._commands[number - 1])
        told = f"escape back   command line {number} is with your terminal (one that takes no OSC 52 ignores it)"
        self.query_one(".keys", Static).update(Text(told))


def help_page() -> Page:
    return Page("stepcred admin top", Text(HELP))


def _details(row: Row) -> Text:
    told = [(label, value) for label, value in row.details if value]
    width = max((len(label) for label, _ in told), default=0)
    text = Text()
    for label, value in told:
        text.append(f"{label:<{width}}  ", style="dim").append(f"{value}\n")
    if row.commands:
        text.append("\nto act on it:\n", style="dim")
    for n, command in enumerate(row.commands):
        text.append(f"{n + 1}  ", style="bold").append(f"{command}\n")
    return text
