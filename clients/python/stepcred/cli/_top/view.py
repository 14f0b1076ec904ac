"""The screen of the live view: head, panes, foot."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import ContentSwitcher, DataTable, Input, Static

from stepcred.cli._top import head
from stepcred.cli._top.grid import Grid
from stepcred.cli._top.head import Answered
from stepcred.cli._top.pages import Details, help_page
from stepcred.cli._top.paint import joined, text
from stepcred.cli._top.panes import PANES
from stepcred.cli._top.table import Pane, Row, arranged

_KEYS = "1-6 tab panes  enter details  / filter  s order  p pause  ? help  q quit"


class Panes(Screen[None], inherit_bindings=False):
    """Shows what it is told."""

    # Before whatever has the focus: keys typed ahead, as over a slow line, must find the pane or the filter they are for.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(key, action, priority=True)
        for key, action in (
            *((str(n + 1), f"pane({n})") for n in range(len(PANES))),
            ("tab", "turn(1)"),
            ("shift+tab", "turn(-1)"),
            ("slash", "filter"),
            ("enter", "keep_filter"),
            ("escape", "drop_filter"),
            ("s", "order"),
            ("p", "pause"),
            ("question_mark", "help"),
            ("q", "leave"),
        )
    ]

    def __init__(self, known: Answered) -> None:
        super().__init__()
        self._known = known
        self._rows = _rows(known)
        self._chosen = 0
        self._orders = [0] * len(PANES)
        self._needle = ""
        self._drawn: dict[str, Text] = {}
        self.paused = False

    @property
    def pane(self) -> Pane:
        return PANES[self._chosen]

    @property
    def grid(self) -> Grid:
        return self.query_one(f"#{self.pane.name.lower()}", Grid)

    def compose(self) -> ComposeResult:
        for name in ("title", "counts", "remark", "tabs"):
            yield Static(id=name, classes="line", markup=False)
        with ContentSwitcher(initial=PANES[0].name.lower()):
            yield from (Grid(pane) for pane in PANES)
        yield Input(placeholder="only rows with this text", id="filter")
        yield Static(id="foot", classes="line", markup=False)
        yield Static(Text(_KEYS), classes="line keys", markup=False)

    def on_mount(self) -> None:
        entry = self.query_one(Input)
        entry.cursor_blink = False
        entry.display = False
        self.set_focus(self.grid)
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def tell(self, known: Answered) -> None:
        """Also before there is anything to draw on, and after."""
        self._known = known
        self._rows = _rows(known)
        if self.is_mounted and self.app.is_running:
            self._draw()

    def _draw(self) -> None:
        known, rows = self._known, self._rows
        chosen = arranged(rows[self._chosen], order=self._orders[self._chosen], needle=self._needle)
        self._line("title", joined(head.title(known, paused=self.paused)))
        self._line("counts", joined(head.counts(known)))
        self._line("remark", text(head.remark(known)))
        self._line("tabs", joined(head.tabs(PANES, [len(each) for each in rows], self._chosen), gap=""))
        self.grid.fill(chosen)
        self._line("foot", Text(self._foot(len(chosen), len(rows[self._chosen]))))

    def _foot(self, shown: int, of: int) -> str:
        pane, snapshot = self.pane, self._known.snapshot
        if not of:
            return pane.nothing if snapshot else ""
        parts = [f"order: {pane.orders[self._orders[self._chosen]]}"]
        if self._needle:
            parts.insert(0, f'{shown} of {of} with "{self._needle}"')
        if snapshot is not None:
            parts.append(pane.more(snapshot))
        return "   ".join(part for part in parts if part)

    def _line(self, name: str, told: Text) -> None:
        if self._drawn.get(name) != told:
            self._drawn[name] = told
            self.query_one(f"#{name}", Static).update(told, layout=False)

    def action_pane(self, number: int) -> None:
        self._chosen = number
        self.query_one(ContentSwitcher).current = self.pane.name.lower()
        self.set_focus(self.grid)
        self._draw()

    def action_turn(self, by: int) -> None:
        self.action_pane((self._chosen + by) % len(PANES))

    def action_order(self) -> None:
        self._orders[self._chosen] = (self._orders[self._chosen] + 1) % len(self.pane.orders)
        self._draw()

    def action_pause(self) -> None:
        self.paused = not self.paused
        self._draw()

    def action_leave(self) -> None:
        self.app.exit(0)

    def action_help(self) -> None:
        self.app.push_screen(help_page())

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """While the filter is written, letters are letters; enter on a row is the row's."""
        writing = isinstance(self.focused, Input)
        return action == "drop_filter" or (action == "keep_filter") == writing

    def action_filter(self) -> None:
        entry = self.query_one(Input)
        entry.display = True
        self.set_focus(entry)

    def action_keep_filter(self) -> None:
        self.query_one(Input).display = False
        self.set_focus(self.grid)

    def action_drop_filter(self) -> None:
        self.query_one(Input).value = ""
        self.action_keep_filter()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._needle = event.value
        self._draw()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        row = self.grid.selected
        if row is not None and event.data_table is self.grid:
            self.app.push_screen(Details(f"{self.pane.name}: {row.details[0][1]}", row))


def _rows(known: Answered) -> list[list[Row]]:
    """Of every pane."""
    return [list(pane.rows(known.snapshot)) if known.snapshot else [] for pane in PANES]
