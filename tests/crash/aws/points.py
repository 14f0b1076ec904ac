"""Where the daemon kills itself: around its calls to AWS, and in what every provider shares."""

from __future__ import annotations

from broker.providers.aws.assume.calls import AssumeRole
from broker.providers.aws.calls import Clients
from broker.providers.aws.denies.looking import Looking
from broker.providers.aws.denies.writer import Writer
from broker.providers.aws.roles import TRIAL_POLICY
from broker.providers.vault.client import VaultClient
from tests.crash.points import IN_FLIGHT, Call, Point
from tests.crash.points import POINTS as SHARED

OPERATION = 4  # place among the arguments of Clients.call


def _operation(call: Call) -> str:
    return str(call.args[OPERATION])


def _around(operation: str, what: str) -> dict[str, Point]:
    def when(call: Call) -> bool:
        return _operation(call) == operation and call.named.get("PolicyName") != TRIAL_POLICY

    return {
        f"before {what}": Point(owner=Clients, name="call", when=when),
        f"{what} in flight": Point(owner=Clients, name="call", when=when, delay=IN_FLIGHT),
        f"{what} answered, unread": Point(owner=Clients, name="call", when=when, after=True),
    }


POINTS: dict[str, Point] = {
    **{name: point for name, point in SHARED.items() if point.owner is not VaultClient},
    "before AssumeRole": Point(owner=AssumeRole, name="_send"),
    "AssumeRole in flight": Point(owner=AssumeRole, name="_send", delay=IN_FLIGHT),
    "AssumeRole answered, unread": Point(owner=AssumeRole, name="_send", after=True),
    **_around("put_role_policy", "PutRolePolicy"),
    **_around("get_role_policy", "GetRolePolicy"),
    "before the role is looked at": Point(owner=Looking, name="look"),
    "after the role was looked at": Point(owner=Looking, name="look", after=True),
    "before a deny is written": Point(owner=Writer, name="_put"),
    "after a deny was read back": Point(owner=Writer, name="_put", after=True),
}
