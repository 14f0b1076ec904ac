"""A desk over the real engine, with people whose codes can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import pyotp

from broker.leases.beginning import Opened
from broker.model import Agent
from broker.operators.desk import Desk
from broker.operators.file import OperatorsFile
from broker.operators.model import Caller, Operator, Role
from broker.operators.registry import Registry
from broker.operators.second_factor import SecondFactors
from broker.store.approvals import Approval
from tests.fakes.world import MAP, World, agent, refusal
from tests.unit.operators.people import KEY, SECRET, operator

NEEDS = MAP.replace("role: danger}, ttl: 10m, tier: high}", "role: danger}, ttl: 10m, tier: high, approvals: 2}")


class Staff(Registry):
    """Whoever a test says, at once."""

    def __init__(self, world: World) -> None:
        super().__init__(None, world.store, world.clock, world.core.enter)
        self.people: dict[str, Operator] = {}

    @property
    def current(self) -> OperatorsFile:
        keys = {key: one.name for one in self.people.values() for key in one.keys}
        ids = {f"spiffe://dev.local/operator/{name}": one for name, one in self.people.items()}
        return OperatorsFile(operators=self.people, by_key=keys, by_id=ids)


@dataclass
class House:
    """Ann, Bob and Cid may everything; Dan owns what runs."""

    world: World
    staff: Staff = field(init=False)
    desk: Desk = field(init=False)

    def __post_init__(self) -> None:
        self.staff = Staff(self.world)
        for name in ("ann", "bob", "cid"):
            self.hire(operator(name))
        self.hire(operator("dan", groups=frozenset({"data"})))
        factors = SecondFactors(lambda: KEY)
        self.desk = Desk(self.world.core, self.world.engine.orders, self.staff, factors)

    def hire(self, one: Operator) -> None:
        self.staff.people[one.name] = one

    def caller(self, name: str) -> Caller:
        return Caller(operator=self.staff.people[name], agent=self._as_agent(name))

    def _as_agent(self, name: str) -> Agent:
        return agent(f"spiffe://dev.local/operator/{name}")

    def code(self, steps: int = 0) -> str:
        """Of now, or of so many steps of 30 s from now."""
        return pyotp.TOTP(SECRET).at(self.world.clock.now() + timedelta(seconds=30 * steps))

    async def asked(self, opened: Opened) -> Approval:
        """What the step's request has asked for."""
        error = await refusal(self.world.issue(opened.handle, "danger"))
        found = await self.world.store.read(lambda tx: tx.approval(error.metadata["approval_id"]))
        assert found is not None
        return found

    async def decide(
        self,
        name: str,
        asked: Approval,
        *,
        approve: bool = True,
        code: str | None = None,
        digest: str | None = None,
        good_for: timedelta | None = None,
    ) -> Approval:
        answer, _ = await self.desk.decide(
            self.caller(name),
            asked.id,
            approve=approve,
            reason="ticket 7",
            code=self.code() if code is None else code,
            digest=asked.digest if digest is None else digest,
            good_for=good_for,
        )
        return answer


__all__ = ["NEEDS", "House", "Role"]
