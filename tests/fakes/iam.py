"""IAM as one role's deny lists see it: AWS's limit, answers that get lost, writes that land late."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from broker.model import Revocability
from broker.providers.aws.calls import Failure
from broker.providers.aws.denies.iam import IamCall
from broker.providers.aws.denies.lists import DenyList
from broker.providers.aws.denies.looking import ROLE_CHARACTERS
from broker.providers.aws.denies.policy import entries_in
from broker.providers.aws.denies.role import Denied, DenyResult
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.compile import timestamp
from broker.providers.aws.settings import AwsSettings
from broker.providers.base import LeaseRef
from tests.fakes.clock import FakeClock

ROLE = "arn:aws:iam::123456789012:role/teams/etl"
BLOCK = AwsBlock.model_validate(
    {
        "role_arn": ROLE,
        "regions": ["eu-west-1"],
        "statements": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
        "revoke": "deny",
    }
)
CUTTING = BLOCK.model_copy(update={"when_full": "cutoff"})
AGENT = "spiffe://test.local/a"
NO_ENTITY = Failure(code="NoSuchEntity", status=404)
LOST = Failure(code="ReadTimeoutError")  # it was written
GONE = Failure(code="ConnectionClosedError")  # it was not
DENIED = Failure(code="AccessDenied", status=403)
SLOW = Failure(code="Throttling", status=400)


class WakingClock(FakeClock):
    """Whoever sleeps moves it."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.advance(max(0.0, seconds))


class FakeIam:
    """One role's inline policies."""

    def __init__(self, arn: str = ROLE, *, bounded: bool = True) -> None:
        self.arn = arn
        self.bounded = bounded
        self.policies: dict[str, str] = {}
        self.calls: list[str] = []
        self.writing = 0
        self.most_writing = 0
        self.gate: asyncio.Event | None = None  # holds writes back while it is not set
        self.script: dict[str, list[Failure | None]] = {}  # per operation; None = go on
        self.beyond = 0  # writes for which there was no room
        self.page = 1000  # names of policies in one answer
        self.undone = False  # the next write is answered, and undone by another writer of the role

    async def __call__(self, operation: str, **parameters: Any) -> Mapping[str, Any] | Failure:
        assert parameters["RoleName"] == "etl"
        self.calls.append(operation)
        await asyncio.sleep(0)
        planned = self.script[operation].pop(0) if self.script.get(operation) else None
        if planned is not None:
            if planned is LOST and operation == "put_role_policy":
                self._store(parameters["PolicyName"], parameters["PolicyDocument"])
            return planned
        answer: Mapping[str, Any] | Failure = await getattr(self, f"_{operation}")(**parameters)
        return answer

    async def _get_role(self, **_: Any) -> Mapping[str, Any]:
        boundary = {"PermissionsBoundaryArn": "arn:aws:iam::123456789012:policy/b"} if self.bounded else None
        return {"Role": {"Arn": self.arn, **({"PermissionsBoundary": boundary} if boundary else {})}}

    async def _list_role_policies(self, *, Marker: str = "0", **_: Any) -> Mapping[str, Any]:  # noqa: N803 - IAM's
        names, begin = list(self.policies), int(Marker)
        end = begin + self.page
        more = {"Marker": str(end)} if end < len(names) else {}
        return {"PolicyNames": names[begin:end], "IsTruncated": bool(more), **more}

    async def _get_role_policy(self, *, PolicyName: str, **_: Any) -> Mapping[str, Any] | Failure:  # noqa: N803 - IAM's
        if PolicyName not in self.policies:
            return NO_ENTITY
        return {"PolicyDocument": json.loads(self.policies[PolicyName])}

    async def _put_role_policy(self, *, PolicyName: str, PolicyDocument: str, **_: Any) -> Mapping[str, Any] | Failure:  # noqa: N803 - IAM's
        self.writing += 1
        self.most_writing = max(self.most_writing, self.writing)
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.writing -= 1
        if not self._store(PolicyName, PolicyDocument):
            return Failure(code="LimitExceeded", status=409)
        return {}

    async def _delete_role_policy(self, *, PolicyName: str, **_: Any) -> Mapping[str, Any] | Failure:  # noqa: N803 - IAM's
        return {} if self.policies.pop(PolicyName, None) else NO_ENTITY

    def _store(self, name: str, text: str) -> bool:
        others = sum(len(each) for other, each in self.policies.items() if other != name)
        if others + len(text) > ROLE_CHARACTERS:
            self.beyond += 1
            return False
        if not self.undone:
            self.policies[name] = text
        self.undone = False
        return True

    def crowd(self, entries: int) -> None:
        """A policy of somebody else's that leaves room for so many."""
        text = '{"Statement":[{"Sid":""}]}'
        taken = ROLE_CHARACTERS - next(size for size in range(ROLE_CHARACTERS) if entries_in(size) == entries)
        self.policies["permissions"] = text.replace('""', '"' + "x" * (taken - len(text)) + '"')

    # --- what it denies ---

    def lists(self, epoch: int = 7) -> list[str]:
        """Names of this epoch's lists."""
        return [name for name in self.policies if name.startswith(f"stepcred-deny-0123abcd-{epoch}-")]

    def denied(self, epoch: int = 7) -> list[str]:
        """The names in this epoch's list."""
        (name,) = self.lists(epoch)
        statement = json.loads(self.policies[name])["Statement"][0]
        assert (statement["Effect"], statement["Action"], statement["Resource"]) == ("Deny", "*", "*")
        who: list[str] = statement["Condition"]["StringLike"]["aws:userid"]
        return who

    def stops(self, lease_id: str, issued: datetime) -> bool:
        """Do all policies together deny this session now, as AWS reads them?"""
        for text in self.policies.values():
            for statement in json.loads(text)["Statement"]:
                condition = statement.get("Condition", {})
                before = condition.get("DateLessThan", {}).get("aws:TokenIssueTime")
                if before is not None and issued < datetime.fromisoformat(before):
                    return True
                if f"*:{lease_id}" in condition.get("StringLike", {}).get("aws:userid", ()):
                    return True
        return False


class World:
    """A broker process and its IAM."""

    def __init__(
        self,
        iam: FakeIam | None = None,
        *,
        line: IamCall | None = None,
        epoch: int = 7,
        clock: FakeClock | None = None,
        heard: bool = False,
        **settings: Any,
    ) -> None:
        self.clock = clock or WakingClock()
        self.iam = iam or FakeIam()
        self.epoch = epoch
        self.open: list[LeaseRef] = []
        self.list = DenyList(
            iam=lambda _block: line or self.iam,
            settings=AwsSettings(installation="0123abcd4567", **settings),
            epoch=lambda: self.epoch,
            clock=self.clock,
            heard=self.clock.now if heard else lambda: None,
            open_leases=self._open,
        )

    async def _open(self) -> list[LeaseRef]:
        await asyncio.sleep(0)
        return self.open

    def ref(self, name: str, *, minutes: float = 15, epoch: int | None = None, **changes: Any) -> LeaseRef:
        """A lease that was minted just now."""
        now = self.clock.now()
        made = LeaseRef(
            lease_id=name,
            agent=AGENT,
            nonce=b"",
            kid="k",
            params=BLOCK.model_dump(mode="json", exclude_none=True),
            refs={"issued_at": timestamp(now)},
            revocability=Revocability.DENY_POLICY,
            intent_at=now,
            expires_at=now + timedelta(minutes=minutes),
            epoch=self.epoch if epoch is None else epoch,
        )
        return replace(made, **changes)

    async def deny(self, name: str, *, minutes: float = 15, block: AwsBlock = BLOCK) -> Denied:
        return (await self.end(self.ref(name, minutes=minutes), block=block)).state

    async def end(self, ref: LeaseRef, *, block: AwsBlock = BLOCK) -> DenyResult:
        return await self.list.deny(block, ref, may_cut=True)


def lease(number: int) -> str:
    """A lease id."""
    return "".join(random.Random(number).choices("abcdefghijklmnopqrstuvwxyz234567", k=16))
