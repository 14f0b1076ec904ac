"""AWS as the daemon sees it: Ceph's STS, and before Ceph's IAM what AWS has and Ceph has not.

- A deny spreads: IAM says at once what was written, and it holds seconds later.
- A role's inline policies have 10,240 characters at most.
- Answers get lost, and requests are late, as somebody says (`inject`).

Every session that STS makes is written down here, whoever got it.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote
from xml.sax.saxutils import escape

from tests.support.ceph import CephServer
from tests.support.proxy import Proxy, response
from tests.support.s3 import Keys

ROLE_CHARACTERS = 10_240
SPREAD = (0.0, 0.0, 0.2, 1.0, 3.0)  # seconds; one is drawn for each write
SLOWEST_SPREAD = max(SPREAD)
_BOUND = "aws:CurrentTime"


@dataclass(frozen=True, kw_only=True)
class Session:
    """As STS made it. Times are of the day, in seconds."""

    lease_id: str  # the name that was asked for
    role: str
    keys: Keys
    asked_at: float
    bound: float  # by its policy


@dataclass(kw_only=True)
class AwsFront(Proxy):
    """Before a Ceph whose roles exist already. Roles' policies change only through it."""

    ceph: CephServer
    rng: random.Random
    sessions: list[Session] = field(default_factory=list)
    policies: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))  # role → name → document
    puts: int = 0
    late_at: dict[str, float] = field(default_factory=dict)  # role → monotonic: the last write that came late
    refused_at: dict[str, float] = field(default_factory=dict)  # role → monotonic: the last that was one too many
    _landing: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def know(self, role: str) -> None:
        """What is on it from before."""
        held = self.ceph.role_policies(role)
        self.policies[role] |= {name: json.dumps(one, separators=(",", ":")) for name, one in held.items()}

    def characters(self, role: str) -> int:
        """Of its inline policies, as AWS counts them."""
        return sum(map(len, self.policies[role].values()))

    async def landed(self) -> None:
        """Until everything holds that was written."""
        await asyncio.gather(*self._landing.values())

    async def _forward(self, request: bytes) -> bytes:
        form = {name: values[0] for name, values in parse_qs(request.partition(b"\r\n\r\n")[2].decode()).items()}
        role, name = form.get("RoleName", ""), form.get("PolicyName", "")
        match form.get("Action"):
            case "AssumeRole":
                return await self._assume(form, request)
            case "PutRolePolicy":
                return self._put(role, name, form["PolicyDocument"], request)
            case "DeleteRolePolicy":
                return self._delete(role, name, request)
            case "GetRolePolicy":
                return self._get(role, name)
            case "ListRolePolicies":
                members = "".join(f"<member>{escape(one)}</member>" for one in self.policies[role])
                return _answer("ListRolePolicies", f"<PolicyNames>{members}</PolicyNames>")
        return await super()._forward(request)

    async def _forward_later(self, request: bytes, delay: float) -> bytes:
        answer = await super()._forward_later(request, delay)
        if found := re.search(rb"Action=PutRolePolicy.*&RoleName=([^&]+)", request):
            self.late_at[found[1].decode()] = time.monotonic()
        return answer

    async def _assume(self, form: dict[str, str], request: bytes) -> bytes:
        asked_at = time.time()
        answer = await super()._forward(request)
        if answer.split(b" ", 2)[1] == b"200":
            self.sessions.append(_session(form, answer.decode(), asked_at))
        return answer

    def _put(self, role: str, name: str, document: str, request: bytes) -> bytes:
        try:
            text = json.dumps(json.loads(document), separators=(",", ":"))
        except ValueError:  # how the daemon finds out what it may
            return _error("400 Bad Request", "MalformedPolicyDocument")
        if self.characters(role) - len(self.policies[role].get(name, "")) + len(text) > ROLE_CHARACTERS:
            self.refused_at[role] = time.monotonic()
            return _error("409 Conflict", "LimitExceeded")
        self.puts += 1
        self.policies[role][name] = text
        self._land(role, request, self.rng.choice(SPREAD))
        return _answer("PutRolePolicy")

    def _delete(self, role: str, name: str, request: bytes) -> bytes:
        if self.policies[role].pop(name, None) is None:
            return _error("404 Not Found", "NoSuchEntity")
        self._land(role, request, self.rng.choice(SPREAD))
        return _answer("DeleteRolePolicy")

    def _get(self, role: str, name: str) -> bytes:
        if (text := self.policies[role].get(name)) is None:
            return _error("404 Not Found", "NoSuchEntity")
        held = {"RoleName": role, "PolicyName": name, "PolicyDocument": quote(text)}
        return _answer("GetRolePolicy", "".join(f"<{key}>{escape(value)}</{key}>" for key, value in held.items()))

    def _land(self, role: str, request: bytes, spread: float) -> None:
        """One after the other, as they were accepted."""
        before, due = self._landing.get(role), time.monotonic() + spread

        async def land() -> None:
            if before is not None:
                await before
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            answer = await Proxy._forward(self, request)
            assert answer.split(b" ", 2)[1] == b"200", answer

        self._landing[role] = asyncio.create_task(land())


def _session(form: dict[str, str], answer: str, asked_at: float) -> Session:
    def told(name: str) -> str:
        found = re.search(rf"<{name}>([^<]+)<", answer)
        assert found, name
        return found[1]

    return Session(
        lease_id=form["RoleSessionName"],
        role=form["RoleArn"].rpartition("/")[2],
        keys=Keys(
            access_key_id=told("AccessKeyId"),
            secret_access_key=told("SecretAccessKey"),
            session_token=told("SessionToken"),
        ),
        asked_at=asked_at,
        bound=_bound(json.loads(form["Policy"])),
    )


def _bound(policy: Any) -> float:
    """When its policy ends it; a day without such a statement."""
    from datetime import datetime

    times = [
        statement["Condition"]["DateGreaterThan"][_BOUND]
        for statement in policy["Statement"]
        if _BOUND in statement.get("Condition", {}).get("DateGreaterThan", {})
    ]
    return min((datetime.fromisoformat(one).timestamp() for one in times), default=time.time() + 86400)


def _answer(action: str, result: str = "") -> bytes:
    inner = f"<{action}Result>{result}</{action}Result>" if result else ""
    told = "<ResponseMetadata><RequestId>front</RequestId></ResponseMetadata>"
    return response("200 OK", f"<{action}Response>{inner}{told}</{action}Response>".encode(), _date())


def _error(status: str, code: str) -> bytes:
    text = f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>.</Message></Error></ErrorResponse>"
    return response(status, text.encode(), _date())


def _date() -> str:
    from email.utils import formatdate

    return f"Date: {formatdate(usegmt=True)}"
