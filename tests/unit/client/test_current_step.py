"""`current_step()`: the innermost one of this context, wherever blocks are entered and left."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Generator

import pytest

import stepcred
from tests.fakes.broker_server import FakeBroker


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str], fake: FakeBroker) -> None:
    """Every test here has a broker."""


def none_here() -> bool:
    try:
        stepcred.current_step()
    except stepcred.StepcredError:
        return True
    return False


def test_the_innermost() -> None:
    assert none_here()
    with stepcred.connect() as broker:
        with broker.step(scopes=[]) as outer:
            assert stepcred.current_step() is outer
            with broker.step(step="inner", scopes=[]) as inner:
                assert stepcred.current_step() is inner
            assert stepcred.current_step() is outer
        assert none_here()


def test_a_step_that_does_not_begin_is_none(fake: FakeBroker) -> None:
    with stepcred.connect() as broker:
        fake.stop()
        with pytest.raises(stepcred.BrokerUnavailable), broker.step(scopes=[]):
            pass
        assert none_here()
        fake.start()


def test_threads_begin_without_one_and_can_be_given_it() -> None:
    found: list[bool] = []
    with stepcred.connect() as broker, broker.step(scopes=[]) as step:
        context = contextvars.copy_context()
        for target in (
            lambda: found.append(none_here()),
            lambda: context.run(lambda: found.append(stepcred.current_step() is step)),
        ):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join(10)
    assert found == [True, True]


def test_left_in_another_order_or_context() -> None:
    with stepcred.connect() as broker:

        def stepping() -> Generator[stepcred.Step, None, None]:
            with broker.step(scopes=[]) as step:
                yield step

        elsewhere, here = contextvars.copy_context(), stepping()
        step = next(here)
        assert stepcred.current_step() is step
        elsewhere.run(lambda: next(here, None))  # left where it was not entered
        assert not step.alive
        assert none_here()
        first, second = broker.step(scopes=[]), broker.step(step="b", scopes=[])
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert stepcred.current_step() is second
        second.__exit__(None, None, None)
        assert none_here()


async def test_tasks_have_that_of_whoever_started_them() -> None:
    async with stepcred.aio.connect() as broker:

        async def work(name: str) -> bool:
            async with broker.step(step=name, scopes=[]) as mine:
                await asyncio.sleep(0.01)
                return stepcred.aio.current_step() is mine

        async with broker.step(scopes=[]) as step:

            async def inside() -> object:
                return stepcred.aio.current_step()

            assert await asyncio.create_task(inside()) is step
            assert await asyncio.gather(*[work(f"s{number}") for number in range(5)]) == [True] * 5
            assert stepcred.aio.current_step() is step
            assert none_here()  # of the other client
        with pytest.raises(stepcred.StepcredError, match="async with"):
            stepcred.aio.current_step()
