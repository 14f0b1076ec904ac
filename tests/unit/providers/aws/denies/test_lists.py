"""The deny list against an IAM in memory that keeps AWS's limit and can lose answers and write late."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from broker.providers.aws.block import AwsBlock
from broker.providers.aws.calls import Failure
from broker.providers.aws.denylist import ROLE_CHARACTERS, Denied, DenyList
from broker.providers.aws.denypolicy import entries_in
from broker.providers.base import ProviderError
from tests.fakes.clock import FakeClock

ROLE = "arn:aws:iam::123456789012:role/teams/etl"
BLOCK = AwsBlock.model_validate(
    {
        "role_arn": ROLE,
        "regions": ["eu-west-1"],
        "statements": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
    }
)
NO_ENTITY = Failure(code="NoSuchEntity", status=404)
LOST = Failure(code="ReadTimeoutError")


class FakeIam:
    """One role's inline policies."""

    def __init__(self, arn: str = ROLE) -> None:
        self.arn = arn
        self.policies: dict[str, str] = {}
        self.calls: list[str] = []
        self.writing = 0
        self.most_writing = 0
        self.gate: asyncio.Event | None = None  # holds writes back while it is not set
        self.script: dict[str, list[Callable[[], Failure | None]]] = {}  # per operation; None = go on

    async def __call__(self, operation: str, **parameters: Any) -> Mapping[str, Any] | Failure:
        assert parameters["RoleName"] == "etl"
        self.calls.append(operation)
        await asyncio.sleep(0)
        if self.script.get(operation) and (failure := self.script[operation].pop(0)()) is not None:
            if failure is LOST and operation == "put_role_policy":
                self.policies[parameters["PolicyName"]] = parameters["PolicyDocument"]
            return failure
        answer: Mapping[str, Any] | Failure = await getattr(self, f"_{operation}")(**parameters)
        return answer

    async def _get_role(self, **_: Any) -> Mapping[str, Any]:
        return {"Role": {"Arn": self.arn}}

    async def _list_role_policies(self, **_: Any) -> Mapping[str, Any]:
        return {"PolicyNames": list(self.policies), "IsTruncated": False}

    async def _get_role_policy(self, *, PolicyName: str, **_: Any) -> Mapping[str, Any] | Failure:  # noqa: N803 - IAM's
        if PolicyName not in self.policies:
            return NO_ENTITY
        return {"PolicyDocument": json.loads(self.policies[PolicyName])}

    async def _put_role_policy(self, *, PolicyName: str, PolicyDocument: str, **_: Any) -> Mapping[str, Any] | Failure:  # noqa: N803 - IAM's
        self.writing += 1
        self.most_writing = max(self.most_writing, self.writing)
        if self.gate is not None:
            await self.gate.wait()
        self.writing -= 1
        others = sum(len(text) for name, text in self.policies.items() if name != PolicyName)
        if others + len(PolicyDocument) > ROLE_CHARACTERS:
            return Failure(code="LimitExceeded", status=409)
        self.policies[PolicyName] = PolicyDocument
        return {}

    async def _delete_role_policy(self, *, PolicyName: str, **_: Any) -> Mapping[str, Any] | Failure:  # noqa: N803 - IAM's
        return {} if self.policies.pop(PolicyName, None) else NO_ENTITY

    def denied(self, policy: str = "stepcred-deny-0123abcd-7") -> list[str]:
        statement = json.loads(self.policies[policy])["Statement"][0]
        assert (statement["Effect"], statement["Action"], statement["Resource"]) == ("Deny", "*", "*")
        who: list[str] = statement["Condition"]["StringLike"]["aws:userid"]
        return who


class World:
    """A broker process and its IAM."""

    def __init__(self, iam: FakeIam | None = None, epoch: int = 7) -> None:
        self.clock = FakeClock()
        self.iam = iam or FakeIam()
        self.epoch = epoch
        self.list = DenyList(iam=self.iam, installation="0123abcd4567", epoch=lambda: self.epoch, clock=self.clock)

    async def deny(self, lease: str, *, minutes: float = 15, until: datetime | None = None) -> Denied:
        bound = until or self.clock.now() + timedelta(minutes=minutes)
        return (await self.list.deny(BLOCK, lease, bound)).state


def lease(number: int) -> str:
    return "".join(random.Random(number).choices("abcdefghijklmnopqrstuvwxyz234567", k=16))


async def test_an_entry_names_one_session_in_a_policy_of_this_installation_and_epoch() -> None:
    world = World()
    result = await world.list.deny(BLOCK, lease(1), world.clock.now() + timedelta(minutes=15))
    assert (result.state, result.policy, result.at) == (
        Denied.DENY_WRITTEN,
        "stepcred-deny-0123abcd-7",
        world.clock.now(),
    )
    assert world.iam.denied() == [f"*:{lease(1)}"]


async def test_denying_again_writes_nothing_and_keeps_the_time_of_the_first_write() -> None:
    world = World()
    until = world.clock.now() + timedelta(minutes=15)
    first = await world.list.deny(BLOCK, lease(1), until)
    world.clock.advance(30)
    assert await world.list.deny(BLOCK, lease(1), until) == first
    assert world.iam.calls.count("put_role_policy") == 1


async def test_concurrent_ends_share_a_write_and_never_two_at_once() -> None:
    world = World()
    world.iam.gate = asyncio.Event()
    first = [asyncio.create_task(world.deny(lease(n))) for n in range(50)]
    await asyncio.sleep(0.02)
    later = [asyncio.create_task(world.deny(lease(n))) for n in range(50, 100)]
    await asyncio.sleep(0.02)
    world.iam.gate.set()
    assert set(await asyncio.gather(*first, *later)) == {Denied.DENY_WRITTEN}
    assert (world.iam.calls.count("put_role_policy"), world.iam.most_writing) == (2, 1)
    assert len(world.iam.denied()) == 100


async def test_a_cancelled_caller_does_not_let_a_second_writer_in() -> None:
    world = World()
    world.iam.gate = asyncio.Event()
    gone = asyncio.create_task(world.deny(lease(1)))
    await asyncio.sleep(0.02)
    gone.cancel()
    other = asyncio.create_task(world.deny(lease(2)))
    await asyncio.sleep(0.02)
    world.iam.gate.set()
    assert await other is Denied.DENY_WRITTEN
    assert (len(world.iam.denied()), world.iam.most_writing) == (2, 1)


async def test_entries_go_after_their_bound_and_not_before() -> None:
    world = World()
    await world.deny(lease(1), minutes=10)
    world.clock.advance(10 * 60)
    await world.deny(lease(2))
    assert len(world.iam.denied()) == 2
    world.clock.advance(6 * 60)
    await world.deny(lease(3))
    assert world.iam.denied() == sorted([f"*:{lease(2)}", f"*:{lease(3)}"])


async def test_nothing_is_written_in_the_last_minute() -> None:
    world = World()
    assert await world.deny(lease(1), minutes=0.9) is Denied.WAITING_FOR_BOUND
    assert world.iam.calls == []


async def test_a_failed_write_is_not_tried_again_in_the_last_minute() -> None:
    world = World()
    world.iam.script["put_role_policy"] = [lambda: Failure(code="AccessDenied", status=403)]
    until = world.clock.now() + timedelta(minutes=2)
    with pytest.raises(ProviderError):
        await world.deny(lease(1), until=until)
    world.clock.advance(61)
    assert await world.deny(lease(1), until=until) is Denied.WAITING_FOR_BOUND
    await world.deny(lease(2))
    assert world.iam.denied() == [f"*:{lease(2)}"]


async def test_a_full_list_refuses_new_entries_and_keeps_those_it_has() -> None:
    world = World()
    room = entries_in(ROLE_CHARACTERS)
    assert room == 480
    states = await asyncio.gather(*(world.deny(lease(n)) for n in range(room)))
    assert set(states) == {Denied.DENY_WRITTEN}
    assert len(world.iam.policies["stepcred-deny-0123abcd-7"]) <= ROLE_CHARACTERS
    before = world.iam.denied()
    assert await world.deny(lease(1000), minutes=60) is Denied.DENY_LIST_FULL
    assert world.iam.denied() == before
    world.clock.advance(25 * 60)
    assert await world.deny(lease(1000), minutes=60) is Denied.DENY_WRITTEN


async def test_the_roles_own_policies_take_their_part_of_the_budget() -> None:
    world = World()
    world.iam.policies["permissions"] = json.dumps(
        {"Version": "2012-10-17", "Statement": "x" * 9_000}, separators=(",", ":")
    )
    states = await asyncio.gather(*(world.deny(lease(n)) for n in range(100)))
    assert (
        states.count(Denied.DENY_WRITTEN)
        == len(world.iam.denied())
        == entries_in(10_240 - len(world.iam.policies["permissions"]))
    )
    assert states.count(Denied.DENY_LIST_FULL) > 0


async def test_a_policy_that_was_added_beside_ours_is_counted_after_the_refusal() -> None:
    world = World()
    await world.deny(lease(1))
    world.iam.policies["permissions"] = json.dumps({"Statement": "x" * 10_060}, separators=(",", ":"))
    with pytest.raises(ProviderError, match="LimitExceeded"):
        await world.deny(lease(2))
    assert await world.deny(lease(2)) is Denied.DENY_LIST_FULL
    assert await world.deny(lease(1)) is Denied.DENY_WRITTEN


async def test_a_lost_answer_is_read_back_until_it_can_no_longer_land() -> None:
    world = World()
    world.iam.script["put_role_policy"] = [lambda: LOST]
    until = world.clock.now() + timedelta(minutes=15)
    for _ in range(3):
        with pytest.raises(ProviderError, match="being read back"):
            await world.deny(lease(1), until=until)
        world.clock.advance(20)
    assert world.iam.calls.count("get_role_policy") == 3
    world.clock.advance(1)
    assert await world.deny(lease(1), until=until) is Denied.DENY_WRITTEN
    assert await world.deny(lease(1), until=until) is Denied.DENY_WRITTEN
    assert world.iam.calls.count("get_role_policy") == 4
    assert world.iam.calls.count("put_role_policy") == 1


async def test_a_late_write_that_undoes_a_newer_one_is_seen_and_repaired() -> None:
    world = World()
    world.iam.script["put_role_policy"] = [lambda: LOST]
    until = world.clock.now() + timedelta(minutes=15)
    with pytest.raises(ProviderError):
        await world.deny(lease(1), until=until)
    older = world.iam.policies["stepcred-deny-0123abcd-7"]
    with pytest.raises(ProviderError):
        await world.deny(lease(2), until=until)
    assert len(world.iam.denied()) == 2
    world.iam.policies["stepcred-deny-0123abcd-7"] = older
    world.clock.advance(61)
    assert await world.deny(lease(2), until=until) is Denied.DENY_WRITTEN
    assert world.iam.denied() == sorted([f"*:{lease(1)}", f"*:{lease(2)}"])


async def test_a_write_that_failed_is_reported_and_made_good_by_asking_again() -> None:
    world = World()
    world.iam.script["put_role_policy"] = [lambda: Failure(code="ServiceFailure", status=500)]
    with pytest.raises(ProviderError, match="lost"):
        await world.deny(lease(1))
    world.clock.advance(61)
    assert await world.deny(lease(1)) is Denied.DENY_WRITTEN


async def test_when_iam_cannot_be_read_nothing_is_claimed() -> None:
    world = World()
    world.iam.script = {"put_role_policy": [lambda: LOST], "get_role_policy": [lambda: LOST]}
    with pytest.raises(ProviderError, match="did not say"):
        await world.deny(lease(1))


async def test_a_missing_permission_is_named() -> None:
    world = World()
    world.iam.script["put_role_policy"] = [lambda: Failure(code="AccessDenied", status=403)]
    with pytest.raises(ProviderError, match="IAM refused PutRolePolicy: AccessDenied"):
        await world.deny(lease(1))


async def test_a_namesake_in_the_brokers_own_account_is_not_taken_for_the_role() -> None:
    world = World(FakeIam(arn="arn:aws:iam::999999999999:role/teams/etl"))
    with pytest.raises(ProviderError, match="another account"):
        await world.deny(lease(1))
    assert world.iam.policies == {}


async def test_a_new_epoch_copies_nothing_and_leaves_the_older_list_until_its_last_bound() -> None:
    old = World()
    await old.deny(lease(1), minutes=10)
    new = World(old.iam, epoch=8)
    await new.deny(lease(2))
    assert old.iam.denied("stepcred-deny-0123abcd-8") == [f"*:{lease(2)}"]
    assert old.iam.denied("stepcred-deny-0123abcd-7") == [f"*:{lease(1)}"]
    new.clock.advance(10 * 60)
    await new.deny(lease(3))
    assert "stepcred-deny-0123abcd-7" in old.iam.policies
    new.clock.advance(6 * 60)
    await new.deny(lease(4))
    assert list(old.iam.policies) == ["stepcred-deny-0123abcd-8"]


async def test_a_paused_older_writer_cannot_undo_a_newer_ones_denies() -> None:
    old = World()
    await old.deny(lease(1))
    new = World(old.iam, epoch=8)
    await new.deny(lease(2))
    await old.deny(lease(3))
    assert old.iam.denied("stepcred-deny-0123abcd-8") == [f"*:{lease(2)}"]


async def test_a_process_that_took_a_new_epoch_writes_its_own_list() -> None:
    world = World()
    await world.deny(lease(1))
    world.epoch = 8
    await world.deny(lease(1))
    assert set(world.iam.policies) == {"stepcred-deny-0123abcd-7", "stepcred-deny-0123abcd-8"}


async def test_policies_of_others_are_never_deleted() -> None:
    iam = FakeIam()
    for name in ("permissions", "stepcred-deny-ffffffff-1", "stepcred-deny-0123abcd-9", "stepcred-deny-0123abcd-x"):
        iam.policies[name] = '{"Version":"2012-10-17","Statement":[{"Sid":"until1500000000"}]}'
    world = World(iam)
    await world.deny(lease(1))
    world.clock.advance(3600)
    await world.deny(lease(2))
    assert "delete_role_policy" not in iam.calls


@pytest.mark.parametrize("name", ["*", "", "abcdefghijklmno?", "ABCDEFGHIJKLMNOP", "abcdefghijklmnop\n"])
async def test_a_pattern_never_gets_into_the_policy(name: str) -> None:
    with pytest.raises(ProviderError, match="not a lease id"):
        await World().deny(name)
