from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from broker.guard.keys import about, guard_key, hour_key, without_step, workloads

NAMES = st.text(alphabet="ab:/=,", max_size=3)  # delimiters that a careless join would trip over
PARTS = st.fixed_dictionaries(
    {
        "workload": NAMES,
        "captures": st.dictionaries(NAMES, NAMES, max_size=2),
        "workflow": NAMES,
        "run": NAMES,
        "step": NAMES,
        "scope": NAMES,
    }
)
PLAIN = {"workload": "load", "captures": {"team": "a"}, "workflow": "etl", "run": "r1", "step": "s", "scope": "x"}
HOUR = {"workload": "load", "captures": {"team": "a"}, "scope": "x"}


@given(PARTS, PARTS)
def test_two_keys_are_equal_only_for_equal_parts(one: dict, other: dict) -> None:  # type: ignore[type-arg]  # drawn
    assert (guard_key(**one) == guard_key(**other)) == (one == other)


def test_moving_a_character_between_parts_changes_the_key() -> None:
    spellings = [
        PLAIN | {"workflow": "etlr", "run": "1"},
        PLAIN | {"workflow": "etl", "run": "r1"},
        PLAIN | {"captures": {"te": "ama"}},
        PLAIN | {"captures": {}},
        PLAIN | {"captures": {"team": "a", "workflow": "etl"}},
    ]
    made = sorted(guard_key(**parts) for parts in spellings)  # type: ignore[arg-type]  # a table of mixed values
    assert all(left != right for left, right in pairwise(made))


def test_the_run_capture_and_the_order_of_captures_buy_nothing() -> None:
    plain = hour_key(workload="w", captures={"a": "1", "b": "2"}, scope="x")
    assert hour_key(workload="w", captures={"b": "2", "run": "r9", "a": "1"}, scope="x") == plain
    names = {"workflow": "w", "run": "r", "step": "s", "scope": "x"}
    assert guard_key(workload="w", captures={"run": "r1"}, **names) == guard_key(workload="w", captures={}, **names)


def test_a_budget_and_an_hour_never_share_a_key() -> None:
    empty = {"workload": "", "captures": {}, "scope": ""}
    budget = guard_key(workflow="", run="", step="", **empty)  # type: ignore[arg-type]  # mixed values
    assert budget != hour_key(**empty)  # type: ignore[arg-type]  # mixed values
    assert len(budget) == 64


def test_people_are_told_what_a_key_stands_for() -> None:
    told = about(**(PLAIN | {"captures": {"team": "a", "run": "r1"}}))  # type: ignore[arg-type]  # mixed values
    assert told == PLAIN
    assert without_step(told) == HOUR


def test_a_key_is_of_all_workloads_that_are_counted_by_it() -> None:
    told = about(**PLAIN, also=["x", "y"])  # type: ignore[arg-type]  # mixed values
    assert workloads(told) == (PLAIN["workload"], "x", "y")
    assert without_step(told) == HOUR | {"also": ["x", "y"]}
    assert workloads(PLAIN) == (PLAIN["workload"],)
