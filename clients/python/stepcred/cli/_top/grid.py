"""One pane as a table on the screen. What has not changed is not drawn again."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.widgets import DataTable

from stepcred.cli._top.paint import text
from stepcred.cli._top.table import GAP, Cell, Column, Pane, Row, shown, widths


class Grid(DataTable[Text]):
    """Read-only; the cursor stays on its row while rows come and go around it."""

    def __init__(self, pane: Pane) -> None:
        super().__init__(id=pane.name.lower(), cursor_type="row", cell_padding=0, zebra_stripes=False)
        self.pane = pane
        self._sizes: list[int] = []
        self._shown: list[Row] = []

    @property
    def selected(self) -> Row | None:
        return self._shown[self.cursor_row] if 0 <= self.cursor_row < len(self._shown) else None

    def fill(self, rows: Sequence[Row]) -> None:
        sizes = widths(self.pane.columns, rows, self.app.size.width - 1)  # one for the scroll bar
        if sizes == self._sizes and [row.key for row in rows] == [row.key for row in self._shown]:
            self._change(rows)
        else:
            self._build(rows, sizes)
        self._shown = list(rows)

    def _change(self, rows: Sequence[Row]) -> None:
        for n, (row, before) in enumerate(zip(rows, self._shown, strict=True)):
            for m, (cell, old) in enumerate(zip(row.cells, before.cells, strict=True)):
                if cell != old:
                    self.update_cell_at((n, m), self._drawn(cell, m))  # type: ignore[arg-type]  # a Coordinate is a pair

    def _build(self, rows: Sequence[Row], sizes: list[int]) -> None:
        selected, cursor, top = self.selected, self.cursor_row, self.scroll_y
        self._sizes = sizes
        self.clear(columns=True)
        last = len(sizes) - 1
        for m, (column, size) in enumerate(zip(self.pane.columns, sizes, strict=True)):
            label = shown(Cell(column.title), column, size)
            self.add_column(Text(label), key=column.title, width=size + (GAP if m != last else 0))
        for row in rows:
            self.add_row(*(self._drawn(cell, m) for m, cell in enumerate(row.cells)), key=row.key)
        keys = [row.key for row in rows]
        if selected is not None and selected.key in keys:
            cursor = keys.index(selected.key)
        self.move_cursor(row=min(cursor, max(0, len(rows) - 1)), scroll=False)
        self.scroll_to(y=top, animate=False, immediate=True)

    def _drawn(self, cell: Cell, m: int) -> Text:
        column: Column = self.pane.columns[m]
        return text(Cell(shown(cell, column, self._sizes[m]), cell.tone))
