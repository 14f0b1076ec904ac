"""The live view, driven without a terminal. What a terminal makes of it: tests/e2e/test_admin_top.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from stepcred._errors import BrokerUnavailable, StepcredError
from stepcred.cli._top.grid import Grid
from stepcred.cli._top.head import Answered
from stepcred.cli._top.live import TopApp
from stepcred.cli._top.model import Snapshot
from stepcred.cli._top.poller import Poller
from tests.support.acme import Acme, snapshot_of

GONE = BrokerUnavailable("the broker at 127.0.0.1:1 cannot be reached")


class Told:
    """A poller that says what it is told to."""

    def __init__(self, answer: Snapshot | StepcredError) -> None:
        self.answer = answer
        self.asked = 0

    def poll(self) -> Snapshot:
        self.asked += 1
        if isinstance(self.answer, StepcredError):
            raise self.answer
        return self.answer


class Driven:
    """The app under a pilot, and what is to be seen of it."""

    def __init__(self, app: TopApp, pilot: Pilot[int], told: Told) -> None:
        self.app = app
        self.pilot = pilot
        self.told = told

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    def line(self, name: str) -> str:
        return str(self.app.screen.query_one(f"#{name}", Static).content)

    def rows(self) -> list[list[str]]:
        grid = self.app.panes.grid
        return [[str(cell).strip() for cell in grid.get_row_at(n)] for n in range(grid.row_count)]

    def page(self) -> str:
        return str(self.app.screen.query_one(".text", Static).content)

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(500):
            if condition():
                return
            await self.pilot.pause(0.01)
        pytest.fail("never so")


@pytest.fixture
def told(snapshot: Snapshot) -> Told:
    return Told(snapshot)


@asynccontextmanager
async def driven(told: Told, size: tuple[int, int] = (80, 24), interval: float = 0.05) -> AsyncIterator[Driven]:
    known = Answered(snapshot=told.answer) if isinstance(told.answer, Snapshot) else Answered(problem=told.answer)
    app = TopApp(cast("Poller", told), known, interval)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        yield Driven(app, pilot, told)


async def test_panes_by_number_and_by_tab(told: Told) -> None:
    async with driven(told) as view:
        assert "[1 Steps 6]" in view.line("tabs")
        assert len(view.rows()) == 6
        await view.press("3")
        assert "[3 Revocations 3]" in view.line("tabs")
        assert [row[0] for row in view.rows()] == ["IN_DOUBT", "OVERDUE", "REVOKING"]
        await view.press("tab", "tab", "tab", "tab")
        assert "[1 Steps 6]" in view.line("tabs")
        await view.press("shift+tab")
        assert "[6 Broker 6]" in view.line("tabs")


async def test_a_filter_is_kept_over_panes_until_it_is_dropped(told: Told) -> None:
    async with driven(told) as view:
        await view.press("slash", *"fetch", "enter")
        assert [row[3] for row in view.rows()] == ["fetch"]
        assert '1 of 6 with "fetch"' in view.line("foot")
        await view.press("2")
        assert {row[0] for row in view.rows()} == {"OVERDUE", "IN_DOUBT"}
        await view.press("slash", "1", "q")  # letters, not keys, while it is written
        assert not view.rows()
        await view.press("escape")
        assert len(view.rows()) == 8
        await view.press("1")
        assert len(view.rows()) == 6


async def test_a_filter_may_hold_markup(told: Told) -> None:
    async with driven(told) as view:
        await view.press("slash", *"[/bold]")
        assert '0 of 6 with "[/bold]"' in view.line("foot")


async def test_orders_go_round(told: Told) -> None:
    async with driven(told) as view:
        assert "order: oldest" in view.line("foot")
        await view.press("s")
        assert "order: ends next" in view.line("foot")
        assert view.rows()[0][3] == "invoice"
        await view.press("s")
        assert view.rows()[0][3] == "fetch"
        await view.press("s", "s")
        assert "order: oldest" in view.line("foot")


async def test_the_cursor_stays_on_its_row(told: Told, acme: Acme) -> None:
    async with driven(told) as view:
        await view.press("down", "down")
        selected = view.app.panes.grid.selected
        assert selected is not None
        del acme.steps[3]  # the first row
        told.answer = snapshot_of(acme)
        await view.until(lambda: len(view.rows()) == 5)
        assert view.app.panes.grid.selected is not None
        assert view.app.panes.grid.selected.key == selected.key
        acme.steps.clear()
        told.answer = snapshot_of(acme)
        await view.until(lambda: not view.rows())
        assert view.line("foot") == "no step is open"
        await view.press("enter", "down")


async def test_all_of_a_row_and_what_to_do_about_it(told: Told) -> None:
    async with driven(told) as view:
        await view.press("3", "down", "enter")
        page = view.page()
        for text in ("k4nd7tz2yq5wc3mh", "spiffe://prod.acme.internal/workflow/ml-train/step/fetch", "EXACT",
                     "1  stepcred admin leases revoke k4nd7tz2yq5wc3mh --reason"):  # fmt: skip
            assert text in page
        await view.press("1")
        assert view.app.clipboard == "stepcred admin leases revoke k4nd7tz2yq5wc3mh --reason"
        await view.press("9")
        assert view.app.clipboard.endswith("--reason")
        await view.press("escape")
        assert "[3 Revocations 3]" in view.line("tabs")


async def test_help(told: Told) -> None:
    async with driven(told) as view:
        await view.press("question_mark")
        assert "escape drops it" in view.page()
        await view.press("q")  # of the page, not of the view
        assert view.app.is_running
        assert "[1 Steps 6]" in view.line("tabs")


async def test_answers_are_shown_as_they_come_also_below_a_page(told: Told, acme: Acme) -> None:
    async with driven(told) as view:
        await view.press("question_mark")
        acme.health.epoch = 13
        told.answer = snapshot_of(acme)
        before = told.asked
        await view.until(lambda: told.asked > before + 1)
        await view.press("escape")
        assert "epoch 13" in view.line("title")


async def test_silence_keeps_what_is_known(told: Told, snapshot: Snapshot) -> None:
    async with driven(told) as view:
        told.answer = GONE
        await view.until(lambda: view.line("remark").startswith("no answer since 22:14:40 UTC: the broker at"))
        assert len(view.rows()) == 6
        told.answer = replace(snapshot, health=replace(snapshot.health, epoch=13))
        await view.until(lambda: "epoch 13" in view.line("title"))
        assert not view.line("remark")


async def test_it_waits_for_a_broker_that_is_not_there_yet(snapshot: Snapshot) -> None:
    told = Told(GONE)
    async with driven(told) as view:
        assert "no answer yet" in view.line("title")
        assert not view.rows()
        told.answer = snapshot
        await view.until(lambda: len(view.rows()) == 6)


async def test_a_pause_asks_nothing(told: Told) -> None:
    async with driven(told) as view:
        await view.press("p")
        assert "PAUSED" in view.line("title")
        before = -1
        while (
            told.asked != before
        ):  # one question may have been under way; else they come every 50 ms, and this never ends
            before = told.asked
            await view.pilot.pause(0.3)
        await view.press("p")
        await view.until(lambda: told.asked > before)


async def test_only_what_changed_is_drawn(told: Told, acme: Acme, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    original = Grid._build

    def build(self: Grid, *arguments: object) -> None:
        built.append(1)
        original(self, *arguments)  # type: ignore[arg-type]

    async with driven(told) as view:
        monkeypatch.setattr(Grid, "_build", build)
        acme.steps[0].live_leases = 7
        told.answer = snapshot_of(acme)
        await view.until(lambda: "7" in {row[7] for row in view.rows()})
        assert not built
        acme.steps.pop()
        told.answer = snapshot_of(acme)
        await view.until(lambda: len(view.rows()) == 5)
        assert built


@pytest.mark.parametrize("size", [(200, 60), (12, 3)])
async def test_any_size(told: Told, size: tuple[int, int]) -> None:
    async with driven(told, size, interval=60) as view:
        for key in ("1", "2", "3", "4", "5", "6", "enter", "escape", "slash", "x", "escape", "question_mark"):
            await view.press(key)
        assert view.app.is_running


async def test_answers_that_come_before_the_first_picture_or_after_the_last_one(told: Told, snapshot: Snapshot) -> None:
    app = TopApp(cast("Poller", told), Answered(problem=GONE), 60)
    app.panes.tell(Answered(snapshot=snapshot))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert app.panes.grid.row_count == 6
        await app.panes.remove_children()  # as textual does on its way out, before it ends who asks
        app._running = False
        app.panes.tell(Answered(problem=GONE))
        app._running = True


async def test_quitting(told: Told) -> None:
    async with driven(told) as view:
        await view.press("q")
        assert view.app.return_code == 0
    async with driven(told) as view:
        await view.press("ctrl+c")
        assert view.app.return_code == 0
