import re
from datetime import timedelta

from broker.guard.denials import EVERYONE, Aggregate, Counted, DenialCounter, Full, new_reference_id
from tests.fakes.clock import START

MINUTE = timedelta(minutes=1)


def test_i3_five_in_full_then_one_aggregate_that_is_opened_once() -> None:
    counter = DenialCounter()
    noted = [counter.note("a", "COOLING", START) for _ in range(1000)]
    assert all(isinstance(one, Full) for one in noted[:5])
    assert len({one.reference_id for one in noted[:5]}) == 5
    counted = [one for one in noted[5:] if isinstance(one, Counted)]
    assert [one.first_of_aggregate for one in counted] == [True] + [False] * 994
    reference = counted[0].reference_id
    assert {one.reference_id for one in counted} == {reference}
    assert counter.due(START + timedelta(seconds=59)) == []
    assert counter.due(START + MINUTE) == [
        Aggregate(reference_id=reference, agent="a", reason="COOLING", count=995, minute=START)
    ]
    assert counter.due(START + MINUTE) == []


def test_each_agent_reason_and_minute_counts_by_itself() -> None:
    counter = DenialCounter(in_full=1)
    assert isinstance(counter.note("a", "COOLING", START), Full)
    assert isinstance(counter.note("b", "COOLING", START), Full)
    assert isinstance(counter.note("a", "LOCKED", START), Full)
    assert isinstance(counter.note("a", "LOCKED", START), Counted)
    counter.due(START + MINUTE)
    assert isinstance(counter.note("a", "LOCKED", START + MINUTE), Full)


def test_a_quiet_minute_is_forgotten_without_a_record() -> None:
    counter = DenialCounter()
    counter.note("a", "COOLING", START)
    assert len(counter) == 1
    assert counter.due(START + MINUTE) == []
    assert len(counter) == 0


def test_a_new_minute_begins_before_the_old_one_was_collected() -> None:
    counter = DenialCounter()
    for _ in range(5):
        counter.note("a", "COOLING", START)
    assert isinstance(counter.note("a", "COOLING", START + MINUTE), Full)


def test_an_uncollected_aggregate_goes_on_and_loses_no_count() -> None:
    counter = DenialCounter(in_full=0)
    first = counter.note("a", "COOLING", START)
    second = counter.note("a", "COOLING", START + 5 * MINUTE)
    assert second == Counted(reference_id=first.reference_id, first_of_aggregate=False)
    assert [aggregate.count for aggregate in counter.due(START + 6 * MINUTE)] == [2]


def test_a_crowd_of_names_is_counted_together_in_bounded_memory() -> None:
    counter = DenialCounter(max_windows=10)
    for n in range(10_000):
        counter.note(f"name-{n}", "ACCESS_DENIED", START)
    assert len(counter) == 11
    (everyone,) = counter.due(START + MINUTE)
    assert (everyone.agent, everyone.count) == (EVERYONE, 10_000 - 10 - 5)


def test_a_clock_set_back_loses_no_aggregate() -> None:
    counter = DenialCounter(in_full=0)
    counter.note("a", "COOLING", START)
    counter.note("a", "COOLING", START - timedelta(days=1))
    assert [aggregate.count for aggregate in counter.due(START - timedelta(days=1))] == [2]


def test_at_shutdown_everything_is_handed_out() -> None:
    counter = DenialCounter(in_full=0)
    counter.note("a", "COOLING", START)
    assert [aggregate.count for aggregate in counter.due(START, everything=True)] == [1]


def test_reference_ids_are_short_and_never_the_same() -> None:
    made = {new_reference_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"[a-z2-7]{16}", one) for one in made)
