"""What was not heard, or was bad, is asked again; when it has changed, the map is read anew."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from broker.errors import StoreError
from broker.policy.language.load import load
from broker.policy.live.holder import Policies
from broker.providers.base import DeclaredScope
from broker.wiring.surveying import AGAIN, again, survey
from tests.fakes.clock import FakeClock
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.live.test_holder_learnt import LOW


class Provider:
    """`changes`: what each question comes to; True when there are no more."""

    name = "fake"

    def __init__(self, *changes: bool | Exception) -> None:
        self.changes = list(changes)
        self.asked: list[tuple[str, ...]] = []

    async def survey(self, scopes: Iterable[DeclaredScope]) -> bool:
        self.asked.append(("all", *(scope.name for scope in scopes)))
        return self.answer()

    async def survey_again(self, scopes: Iterable[DeclaredScope]) -> bool:
        self.asked.append(("again", *(scope.name for scope in scopes)))
        return self.answer()

    def answer(self) -> bool:
        change = self.changes.pop(0) if self.changes else True
        if isinstance(change, Exception):
            raise change
        return change


class Reloaded:
    """Of `Policies`, what is used here."""

    def __init__(self, path: Path) -> None:
        path.write_text(LOW)
        self.map = load(path, KINDS)
        self.times = 0

    async def reload(self) -> bool:
        self.times += 1
        return True


def table(provider: Provider) -> Any:
    return {"fake": provider, "other": object()}


async def test_a_map_is_asked_about_scope_by_scope_and_a_refused_one_by_what_was_bad(tmp_path: Path) -> None:
    provider, policies = Provider(False, True), Reloaded(tmp_path / "map.yaml")
    assert not await survey(table(provider), policies.map)
    assert await survey(table(provider), None)
    assert provider.asked == [("all", "lake"), ("again",)]


async def test_it_is_asked_again_and_a_change_reads_the_map_anew(tmp_path: Path) -> None:
    clock, policies = FakeClock(), Reloaded(tmp_path / "map.yaml")
    provider = Provider(False, StoreError("full"), RuntimeError("a mistake"), True)
    async with again(table(provider), cast(Policies, policies), clock):
        for turn in range(4):
            assert policies.times == 0
            await asyncio.sleep(0)
            await clock.run(AGAIN, step=AGAIN)
            assert provider.asked == [("again", "lake")] * (turn + 1)
        assert policies.times == 1
    assert clock.sleeping == 0  # it has ended
