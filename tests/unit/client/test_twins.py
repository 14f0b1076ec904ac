"""The blocking client and the asyncio one take the same and say so: nothing is in one of them alone."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import stepcred

ALONE = {"credentials", "over"}  # of asyncio: what would block a thread for good


def public(kind: Any) -> dict[str, list[tuple[str, object]]]:
    return {
        name: [(one.name, one.default) for one in inspect.signature(member).parameters.values()]
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize(("one", "other"), [(stepcred.Broker, stepcred.aio.Broker), (stepcred.Step, stepcred.aio.Step)])
def test_both_have_the_same_calls(one: Any, other: Any) -> None:
    blocking, asyncio = public(one), public(other)
    assert blocking == {name: taken for name, taken in asyncio.items() if name not in ALONE}


@pytest.mark.parametrize("name", ["connect", "current_step"])
def test_and_the_same_functions(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(module, name)) for module in (stepcred, stepcred.aio))
    assert [(one.name, one.default) for one in ours.parameters.values()] == [
        (one.name, one.default) for one in theirs.parameters.values()
    ]


def test_every_public_call_is_documented() -> None:
    for kind in (stepcred.Broker, stepcred.Step, stepcred.aio.Broker, stepcred.aio.Step):
        for name in public(kind):
            assert inspect.getdoc(getattr(kind, name)), f"{kind.__module__}.{kind.__name__}.{name}"
