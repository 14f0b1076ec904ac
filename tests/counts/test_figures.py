"""That the counts can fail, and what is said then."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.leases.core import Core
from broker.store.base import Tx
from broker.store.sqlite.tx import SqliteTx
from tests.counts import figures
from tests.counts.counting import Counting
from tests.counts.figures import Figure, Figures, Kind
from tests.counts.meter import Meter
from tests.counts.operations import measured
from tests.counts.parts import counted
from tests.fakes.clock import FakeClock

WANTED: Figures = {
    "issue": {
        "store": {"commits": Figure(2)},
        "python": {"calls": Figure(400, Kind.ABOUT)},
        "disk": {"pages": Figure(9, Kind.AT_MOST, 6)},
        "provider": {"POST auth/token/create/plain": Figure(1)},
        "statements": {"leases.lease": Figure(1), "COMMIT": Figure(2)},
    }
}


def changed(section: str, name: str, number: int) -> list[figures.Row]:
    found = {"issue": {**WANTED["issue"], section: {**WANTED["issue"][section], name: Figure(number)}}}
    return figures.differences(WANTED, found, "issue")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    figures.write(WANTED, tmp_path / "expected.toml")
    again = figures.read(tmp_path / "expected.toml")
    assert {str(figure) for sections in again["issue"].values() for figure in sections.values()} == {
        "1",
        "2",
        "<= 9",
        "~ 400",
    }
    assert figures.differences(again, WANTED, "issue") == []


def test_the_file_in_the_repository_is_as_it_would_be_written(tmp_path: Path) -> None:
    figures.write(figures.read(), tmp_path / "again.toml")
    assert (tmp_path / "again.toml").read_text() == figures.FILE.read_text(), figures.AGAIN


@pytest.mark.parametrize("number", [1, 3])
def test_fewer_differ_as_more_do(number: int) -> None:
    assert changed("store", "commits", number) == [("store", "commits", "2", str(number))]


def test_a_statement_that_came_or_went_is_named() -> None:
    assert changed("statements", "guard.guard_row", 4) == [("statements", "guard.guard_row", "0", "4")]
    assert changed("statements", "leases.lease", 0) == [("statements", "leases.lease", "1", "0")]


@pytest.mark.parametrize(("number", "fits"), [(380, True), (420, True), (379, False), (421, False)])
def test_calls_may_differ_by_a_twentieth(number: int, *, fits: bool) -> None:
    assert (changed("python", "calls", number) == []) is fits


@pytest.mark.parametrize(("number", "fits"), [(0, True), (9, True), (10, False)])
def test_a_bound_has_one_end(number: int, *, fits: bool) -> None:
    assert (changed("disk", "pages", number) == []) is fits


def test_the_table_says_what_to_run() -> None:
    assert figures.table("issue", changed("statements", "guard.guard_row", 4)).splitlines() == [
        "            issue            expected  found",
        "statements  guard.guard_row         0      4",
    ]
    assert "make counts UPDATE=1" in figures.AGAIN


# --- what an operation costs more than before is seen ---


async def _issue(folder: Path, meter: Meter, clock: FakeClock) -> Figures:
    with meter.profiled():
        async with counted(folder, meter, clock) as world:
            count, opened = Counting(world), await world.begin()
            async with count.operation("issue"):
                await world.issue(opened.handle)
            return count.found


@pytest.fixture(scope="module")
def before() -> Figures:
    measured([_issue])  # the first one of a process also loads what is loaded once
    return measured([_issue])


def names(before: Figures) -> dict[str, str]:
    """Name → what is found now, of all that differs."""
    return {name: found for _, name, _, found in figures.differences(before, measured([_issue]), "issue")}


def test_the_same_again_costs_the_same(before: Figures) -> None:
    assert names(before) == {}


def test_a_statement_more(before: Figures, monkeypatch: pytest.MonkeyPatch) -> None:
    request = SqliteTx.request

    def twice(tx: SqliteTx, caller: str, request_id: str) -> object:
        request(tx, caller, request_id)
        return request(tx, caller, request_id)

    had = before["issue"]["statements"]["requests.request"].number
    monkeypatch.setattr(SqliteTx, "request", twice)
    found = names(before)
    assert found["requests.request"] == str(2 * had)
    assert "repeated" in found
    assert "commits" not in found


def test_a_commit_more(before: Figures, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = Core.answered

    async def writes_it_down(core: Core, provider: str) -> None:
        await core.store.write(lambda tx: None)
        await answered(core, provider)

    monkeypatch.setattr(Core, "answered", writes_it_down)
    found = names(before)
    assert int(found["commits"]) == before["issue"]["store"]["commits"].number + 1
    assert int(found["writes"]) == before["issue"]["store"]["writes"].number + 1


def test_work_without_a_statement(before: Figures, monkeypatch: pytest.MonkeyPatch) -> None:
    request = SqliteTx.request

    def looks_again(tx: SqliteTx, caller: str, request_id: str) -> object:
        for _ in range(60):
            _nothing(tx)
        return request(tx, caller, request_id)

    monkeypatch.setattr(SqliteTx, "request", looks_again)
    _nothing.__globals__["__name__"] = "broker.mutant"
    try:
        assert list(names(before)) == ["calls"]
    finally:
        _nothing.__globals__["__name__"] = __name__


def _nothing(tx: Tx) -> None:
    """As if it were the broker's."""
