"""A backend with behaviour: it mints, loses answers, lands late, refuses, and remembers what is alive."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from broker.model import Evidence, JsonValue, NamedBlock, Powers, Remark, Revocability, Tier, VaultToken
from broker.providers.base import (
    Contact,
    LeaseRef,
    Minted,
    MintInDoubt,
    MintOrder,
    MintRefused,
    Progress,
    ProviderError,
    Settlement,
)
from broker.secret import Secret


@dataclass
class Backend:
    """What lives outside of the broker: it survives a crash of the broker."""

    alive: set[str] = field(default_factory=set)  # lease ids
    occupied: set[str] = field(default_factory=set)  # ids that can no longer be minted under
    mints: list[str] = field(default_factory=list)  # every mint that landed, in order
    agents: dict[str, str] = field(default_factory=dict)  # lease id → agent

    def land(self, order: MintOrder) -> bool:
        """A create arrives; False when its id is occupied."""
        lease_id = order.ref.lease_id
        if lease_id in self.occupied:
            return False
        self.mints.append(lease_id)
        self.alive.add(lease_id)
        self.agents[lease_id] = order.agent
        return True


class FakeProvider:
    """`Provider` and `SettlesDoubt` over a `Backend`."""

    def __init__(self, backend: Backend, *, name: str = "fake", landing_seconds: float = 90.0) -> None:
        self.name = name
        self.backend = backend
        self.landing_seconds = landing_seconds
        self.fail = ""  # "refuse", "lose-request", "lose-answer"
        self.revoke_fails = False
        self.proves = True  # False: revoke answers without evidence
        self.before_landing = asyncio.Event()
        self.after_landing = asyncio.Event()
        self.arrived = asyncio.Event()  # a mint has been sent
        self.landed = asyncio.Event()
        self.before_landing.set()
        self.after_landing.set()
        self.seen: list[str] = []  # calls, in order

    async def mint(self, order: MintOrder) -> Minted:
        self.seen.append("mint")
        self.arrived.set()
        if self.fail == "refuse":
            raise MintRefused("refused by the backend")
        await self.before_landing.wait()
        if self.fail == "lose-request":
            raise MintInDoubt("no answer")
        if not self.backend.land(order):
            raise MintInDoubt("the id is taken")
        self.landed.set()
        await self.after_landing.wait()
        if self.fail == "lose-answer":
            raise MintInDoubt("no answer")
        token = Secret(f"secret-of-{order.ref.lease_id}")
        return Minted(credential=VaultToken(token=token, address="fake://"), refs={"accessor": "a"})

    async def revoke(self, ref: LeaseRef) -> Progress:
        self.seen.append("revoke")
        if self.revoke_fails:
            raise ProviderError("backend unreachable", Contact.NONE)
        if not self.proves:
            return Progress(step="SENT")
        self.backend.alive.discard(ref.lease_id)
        return Progress(evidence=Evidence.SEEN_DEAD)

    async def probe(self, ref: LeaseRef) -> Evidence | None:
        return None if ref.lease_id in self.backend.alive else Evidence.SEEN_DEAD

    async def settle(self, ref: LeaseRef, *, final: bool) -> Settlement:
        self.seen.append("settle")
        found = ref.found or ref.lease_id in self.backend.alive
        if found and not ref.found:
            return Settlement(found=True)
        self.backend.alive.discard(ref.lease_id)
        self.backend.occupied.add(ref.lease_id)
        evidence = (Evidence.SEEN_DEAD if found else Evidence.NOT_MINTED) if final else None
        return Settlement(found=found, evidence=evidence)

    async def check(self) -> list[str]:
        return []

    async def close(self) -> None:
        return None


class FakeKind:
    """`ScopeKind` of scopes that a `FakeProvider` mints."""

    def __init__(self, name: str = "fake", revocability: Revocability = Revocability.EXACT) -> None:
        self.name = name
        self._revocability = revocability

    def validate(self, block: Mapping[str, JsonValue]) -> list[tuple[tuple[str | int, ...], str]]:
        return [((key,), "unknown key") for key in block if key != "role"]

    def revocability(self, block: Mapping[str, JsonValue]) -> Revocability:
        return self._revocability

    def completed(self, block: Mapping[str, JsonValue], tier: Tier) -> Mapping[str, JsonValue]:
        return block

    def longest_life(self, block: Mapping[str, JsonValue]) -> timedelta | None:
        return None

    def powers(self, block: Mapping[str, JsonValue]) -> list[str]:
        return [str(block["role"])]

    def regions(self, block: Mapping[str, JsonValue]) -> None:
        return None

    def describe(self, block: Mapping[str, JsonValue], *, now: datetime, until: datetime) -> Powers:
        return Powers(words=(f"may what {block['role']} may",), told={"role": block["role"]})

    def warnings(self, block: Mapping[str, JsonValue]) -> list[Remark]:
        return []

    def joint_warnings(self, blocks: Sequence[NamedBlock]) -> Sequence[tuple[str, Remark]]:
        return []

    def json_schema(self) -> JsonValue:
        return {"type": "object", "properties": {"role": {"type": "string"}}}
