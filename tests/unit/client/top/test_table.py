"""How rows are chosen, ordered, and made to fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcred.cli._top.panes import PANES
from stepcred.cli._top.table import GAP, Cell, Column, Pane, Row, arranged, shown, widths

ROOM = 79  # columns of the smallest terminal, without the scroll bar


def row(key: str, *texts: str, order: int = 0) -> Row:
    return Row(key=key, cells=tuple(map(Cell, texts)), orders=(order,), details=(("all", " ".join(texts)),))


@pytest.mark.parametrize("pane", PANES, ids=lambda pane: pane.name)
def test_every_pane_fits_eighty_columns(pane: Pane) -> None:
    longest = row("k", *("x" * 200 for _ in pane.columns))
    given_widths = widths(pane.columns, [longest], ROOM)
    assert sum(given_widths) + GAP * (len(given_widths) - 1) <= ROOM
    assert all(len(column.title) <= width for column, width in zip(pane.columns, given_widths, strict=True))


COLUMNS = st.lists(
    st.builds(
        lambda least, more, right: Column(title="T", least=least, most=least + more, right=right),
        st.integers(1, 12),
        st.integers(0, 60),
        st.booleans(),
    ),
    min_size=1,
    max_size=9,
)


@given(COLUMNS, st.integers(1, 300), st.data())
def test_widths_fill_the_terminal_and_never_more(columns: list[Column], total: int, data: st.DataObject) -> None:
    texts = st.lists(st.text("x", max_size=90), min_size=len(columns), max_size=len(columns))
    rows = [row(str(n), *data.draw(texts)) for n in range(data.draw(st.integers(0, 3)))]
    given_widths = widths(columns, rows, total)
    used = sum(given_widths) + GAP * (len(columns) - 1)
    least = sum(column.least for column in columns) + GAP * (len(columns) - 1)
    assert all(given_widths)
    if total >= least:
        assert used == total
    for n, column in enumerate(columns[:-1]):  # nothing is cut while another column, the last included, has idle room
        assert given_widths[n] <= max(column.least, min(column.most, max(1, *(len(r.cells[n].text) for r in rows), 0)))


def test_numbers_stand_at_the_right_and_runs_keep_their_end() -> None:
    assert shown(Cell("7"), Column(title="N", least=3, most=3, right=True), 3) == "  7"
    assert shown(Cell("scheduled__2026-12-01"), Column(title="RUN", least=6, most=9, keep_end=True), 6) == "…12-01"
    assert shown(Cell("scheduled__2026-12-01"), Column(title="RUN", least=6, most=9), 6) == "sched…"


def test_rows_are_filtered_by_what_is_cut_off_too() -> None:
    one, two = row("1", "Load"), Row(key="2", cells=(Cell("x"),), orders=(0,), details=(("agent", "spiffe://a/LOAD"),))
    three = row("3", "report")
    assert arranged([three, two, one], order=0, needle="load") == [one, two]
    assert arranged([one], order=0, needle="[bold]") == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=12), st.randoms())
def test_the_order_does_not_depend_on_how_the_rows_came(told: list[tuple[int, int]], random: object) -> None:
    rows = [row(str(key), "x", order=order) for key, order in dict(told).items()]
    mixed = list(rows)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert arranged(mixed, order=0, needle="") == arranged(rows, order=0, needle="")


def test_a_row_that_is_told_twice_is_shown_once() -> None:
    assert arranged([row("1", "old"), row("1", "new")], order=0, needle="") == [row("1", "new")]
