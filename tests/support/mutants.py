"""Code with one thing wrong, so that a test can show that somebody would notice."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeAlias

import pytest

Mutate: TypeAlias = Callable[[pytest.MonkeyPatch], None]


def rewritten(owner: Any, name: str, old: str, new: str, *modules: ModuleType) -> Mutate:
    """The function with this text exchanged for that one, also where other modules have imported it."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        function = getattr(owner, name)
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(old) == 1, f"{name} has changed; say anew what its mutant is"
        made: dict[str, Any] = {}
        exec(compile(source.replace(old, new), f"<mutant of {name}>", "exec"), function.__globals__, made)
        for one in (owner, *modules):
            patch.setattr(one, name, made[name])

    return mutate
