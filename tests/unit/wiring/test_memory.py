from __future__ import annotations

from broker import process
from broker.wiring.memory import Tidier


def test_memory_is_given_back_once_a_flood_is_over() -> None:
    tidier = Tidier(100)
    assert not tidier.look(105, 0.1)  # ordinary
    assert not tidier.look(200, 0.1)  # grows
    assert not tidier.look(300, 0.1)
    assert tidier.look(300, 0.1)
    tidier.left(120)
    assert not tidier.look(125, 0.1)


def test_what_cannot_be_given_back_is_not_tried_again() -> None:
    tidier = Tidier(100)
    assert not tidier.look(200, 0.1)
    assert tidier.look(200, 0.1)
    tidier.left(199)
    assert not tidier.look(200, 0.1)


def test_a_smaller_process_is_the_new_measure() -> None:
    tidier = Tidier(200)
    assert not tidier.look(100, 0.1)
    assert not tidier.look(150, 0.1)
    assert tidier.look(150, 0.1)


def test_the_process_knows_its_size_and_gives_back() -> None:
    assert process.resident_bytes() > 1 << 20
    assert process.give_back_memory() in (True, False)


def test_while_there_is_work_it_waits() -> None:
    tidier = Tidier(100)
    assert not tidier.look(200, 1.2)
    assert not tidier.look(200, 1.2)
    assert tidier.look(200, 0.1)
    assert process.cpu_seconds() > 0
