"""Maps with and without `bind: key`, and certificates of one identity over several keys."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from dataclasses import replace
from typing import Any

from broker.errors import BrokerError, Reason
from broker.model import Agent, Certificate
from tests.fakes.world import MAP, World, agent, new_id

_MAP = MAP.replace(
    "scopes: [plain, elevated, danger, timed], max_step: 2h", "scopes: [plain, timed], max_step: 2h, KEY"
)
ANY_KEY, ONE_KEY = _MAP.replace("KEY", "bind: identity"), _MAP.replace("KEY", "bind: key")
NOBODYS = (Reason.ACCESS_DENIED, "access denied", "{}", None)  # `told` of whatever is unknown or another's


def holder(key: str, *, serial: str = "1", address: str = "") -> Agent:
    """A certificate of the same identity over this key."""
    told = Certificate(spki_sha256=key * 32, serial_number=serial, issuer="CN=ours")
    return replace(agent(address=address), certificate=told, cert_sha256=(key + serial) * 8)


FIRST, OTHER_ONE, RENEWED = holder("aa"), holder("bb"), holder("aa", serial="2")


def told(error: BrokerError) -> tuple[object, ...]:
    return error.reason, error.message, str(error.metadata), error.retry_after


def calls(broker: World, who: Agent, handle: str, lease_id: str, request_id: str) -> Iterator[Awaitable[Any]]:
    """All that an agent can do with a handle. `request_id`: of the credential that was asked for."""
    engine = broker.engine
    yield broker.issue(handle, who=who)
    yield broker.issue(handle, "timed", who=who)
    yield broker.issue(handle, "danger", who=who)  # not even whether the step named it
    yield broker.issue(handle, who=who, request_id=request_id)
    yield broker.issue(handle, who=who, replaces=lease_id)
    yield engine.heartbeat(who, handle, [])
    yield engine.heartbeat(who, handle, [lease_id])
    yield engine.revoke_lease(who, request_id=new_id(), handle=handle, lease_id=lease_id, wait_seconds=0)
    yield engine.end_step(who, request_id=new_id(), handle=handle, wait_seconds=0)
