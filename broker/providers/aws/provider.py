"""AWS STS as a provider: one AssumeRole per lease, named after the lease."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from pydantic import ValidationError

from broker.clock import Clock
from broker.model import AwsSession, Evidence, JsonValue
from broker.providers.aws.block import AwsBlock
from broker.providers.aws.calls import Clients, Failure, Lane
from broker.providers.aws.compile import PolicyTooLargeError, session_policy, timestamp
from broker.providers.aws.cutoff import SKEW, CutOff
from broker.providers.aws.denylist import Denied, DenyList
from broker.providers.aws.settings import AwsSettings
from broker.providers.base import (
    Contact,
    LeaseRef,
    Minted,
    MintInDoubt,
    MintOrder,
    MintRefused,
    Progress,
    ProviderError,
    Recheck,
    Settlement,
    Standing,
    Sweep,
    Swept,
)
from broker.providers.heard import HeardTime
from broker.secret import Secret

SHORTEST_SESSION = 900  # seconds; STS's limits. The session policy's bound makes a lease shorter
LONGEST_SESSION = 43_200

# (status, code) after which nothing was minted. Anything else may have been: a throttle, a 5xx, a proxy's 403.
_REFUSALS: Mapping[tuple[int, str], str] = {
    (403, "AccessDenied"): "AWS refused AssumeRole: trust policy or the broker's permissions do not allow it",
    (400, "ValidationError"): "AWS refused AssumeRole: invalid role, or beyond the role's maximum session duration",
    (400, "MalformedPolicyDocument"): "AWS refused AssumeRole: malformed session policy",
    (400, "PackedPolicyTooLarge"): "AWS refused AssumeRole: session policy too large once packed",
    (403, "RegionDisabledException"): "AWS refused AssumeRole: STS is not active in this region",
    (403, "InvalidClientTokenId"): "AWS refused AssumeRole: the broker's access key is unknown",
    (403, "SignatureDoesNotMatch"): "AWS refused AssumeRole: the broker's secret key is wrong",
    (403, "ExpiredToken"): "AWS refused AssumeRole: the broker's own credentials have expired",
}


class AwsProvider:
    """`Provider` and `SettlesDoubt` for STS.

    A session cannot be taken back. It ends at the bound in its policy, or earlier by a deny on its role,
    which takes AWS seconds to minutes: so `revoke` reports progress, and the evidence is the engine's own,
    EXPIRED once the bound has passed. With `epoch` the provider learns who it writes as; it may change.
    """

    name = "aws"
    landing_seconds = 0.0  # a deny names the session before it exists, and the bound holds for a late one too

    def __init__(self, settings: AwsSettings, clock: Clock, *, epoch: Callable[[], int]) -> None:
        self._settings = settings
        self._clock = clock
        self._heard = HeardTime(clock)
        self._clients = Clients(settings, self._heard, clock)
        patience = settings.connect_timeout.total_seconds()
        self._mints = Lane("mint", settings.mint_workers, patience)
        self._revokes = Lane("revoke", settings.revoke_workers, patience)
        self._denies = DenyList(iam=self._iam, installation=settings.installation, epoch=epoch, clock=clock)

    def time_heard(self) -> datetime | None:
        """AWS's time: `KnowsTime`."""
        return self._heard.now()

    def login_left(self) -> float | None:
        """The broker's own credentials: `KnowsLogin`."""
        return self._clients.identity.left()

    def login_ends(self) -> datetime | None:
        """The same: `KnowsLogin`."""
        return self._clients.identity.ends_at

    async def mint(self, order: MintOrder) -> Minted:
        """One AssumeRole. The credential works until `order.ref.expires_at`, though STS's own expiry is later."""
        block, parameters = self._assume_role(order.ref)
        region = block.sts_region or self._settings.sts_region
        endpoint = block.sts_endpoint or self._settings.endpoint_url
        answer = await self._mints.run(
            partial(self._clients.call, "sts", region, endpoint, "assume_role", **parameters)
        )
        if isinstance(answer, Failure):
            raise _unminted(answer)
        return self._minted(block, answer)

    async def revoke(self, ref: LeaseRef) -> Progress:
        """Deny the session on its role, unless only its time may end it. Never evidence."""
        block = _block_of(ref)
        if block is None:
            raise ProviderError("the lease's aws block cannot be read")
        if block.revoke == "bound":
            return Progress(step=Denied.WAITING_FOR_BOUND.value)
        result = await self._denies.deny(block, ref.lease_id, ref.expires_at)
        refs: Mapping[str, JsonValue] = {}
        if result.at is not None:
            refs = {"deny_policy": result.policy, "deny_written_at": timestamp(result.at)}
        return Progress(step=result.state.value, refs=refs)

    async def probe(self, ref: LeaseRef) -> Evidence | None:  # noqa: ARG002 - of the Protocol
        """Nothing proves a session dead before its bound: the broker keeps no credential to try."""
        return None

    async def settle(self, ref: LeaseRef, *, final: bool) -> Settlement:  # noqa: ARG002 - of the Protocol
        """Deny the session by its name, seen or not. Only time is evidence, and time is the engine's."""
        progress = await self.revoke(ref)
        return Settlement(found=False, refs=progress.refs)

    async def check(self) -> list[str]:
        """Is STS there, and does it know the broker's key?"""
        region, endpoint = self._settings.sts_region, self._settings.endpoint_url
        answer = await self._mints.run(partial(self._clients.call, "sts", region, endpoint, "get_caller_identity"))
        if not isinstance(answer, Failure) or answer.status == 405:  # noqa: PLR2004 - Ceph's STS has no such call
            return []
        if answer.why:
            return [f"aws: {answer.why}"]
        where = endpoint or f"STS in {region}"
        if (answer.status, answer.code) in _REFUSALS:
            return [
                f"aws: {where} refused the broker's credentials ({answer.code}): check the access key and its secret"
            ]
        return [f"aws: {where} gave no answer ({answer.code}): check endpoint, network and credentials"]

    async def may_recover(self, sweep: Sweep) -> list[str]:  # noqa: ARG002 - of the Protocol
        """It needs no more than the broker has; what a role refuses is told with the role."""
        return []

    async def recover(self, sweep: Sweep) -> Swept:
        """Deny every session that is older than now, on each role of these scopes."""
        return await CutOff(self._iam, self._settings.installation, self._clock).sweep(sweep)

    async def recheck(self, ref: LeaseRef, operator: Secret | None) -> Recheck:  # noqa: ARG002 - of the Protocol
        """Only time can be looked at again: nothing else of a session is kept."""
        if self._clock.now() > ref.expires_at + SKEW:
            return Recheck(standing=Standing.DEAD, why="its bound has passed")
        return Recheck(standing=Standing.UNKNOWN, why="AWS cannot be asked about a session; its bound has not passed")

    async def close(self) -> None:
        await self._denies.close()
        await self._mints.close()
        await self._revokes.close()

    async def _iam(self, operation: str, **parameters: JsonValue) -> Mapping[str, JsonValue] | Failure:
        endpoint = self._settings.iam_endpoint_url or self._settings.endpoint_url
        call = partial(self._clients.call, "iam", self._settings.sts_region, endpoint, operation, **parameters)
        return await self._revokes.run(call)

    def _assume_role(self, ref: LeaseRef) -> tuple[AwsBlock, dict[str, JsonValue]]:
        """The request. Raises MintRefused: nothing was sent."""
        block = _block_of(ref)
        if block is None:
            raise MintRefused("the scope's aws block is not valid")
        life = (ref.expires_at - self._clock.now()).total_seconds()
        if life <= 0:
            raise MintRefused("the lease is past its bound")
        policy = _policy_of(block, ref.expires_at)
        if policy is None:
            raise MintRefused("the compiled session policy is larger than AWS takes")
        parameters: dict[str, JsonValue] = {
            "RoleArn": block.role_arn,
            "RoleSessionName": ref.lease_id,  # CloudTrail shows it: joins AWS's records with the journal
            "DurationSeconds": min(LONGEST_SESSION, max(SHORTEST_SESSION, math.ceil(life))),
            "Policy": policy,
        }
        if block.external_id is not None:  # the operator's, never the agent's (confused deputy)
            parameters["ExternalId"] = block.external_id
        return block, parameters

    def _minted(self, block: AwsBlock, answer: Mapping[str, Any]) -> Minted:
        """Raises MintInDoubt when the answer is not whole: there may be a session all the same."""
        held = answer.get("Credentials", {})
        key_id, key, token, expiration = (
            held.get(name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
        )
        if not (key_id and key and token and isinstance(expiration, datetime)):
            raise MintInDoubt("the answer of AssumeRole holds no whole session")
        session = AwsSession(
            access_key_id=key_id,
            secret_access_key=Secret(key),
            session_token=Secret(token),
            region=block.regions[0] if block.regions else self._settings.sts_region,
            endpoint_url=block.endpoint_url or self._settings.endpoint_url,
            session_expires_at=expiration,
        )
        refs = {"session_expires_at": timestamp(expiration)}
        request_id = str(answer.get("ResponseMetadata", {}).get("RequestId", ""))
        return Minted(credential=session, refs=refs, provider_request_id=request_id)


def _unminted(failure: Failure) -> MintRefused | MintInDoubt:
    if not failure.sent:
        return MintRefused(f"AssumeRole was not sent: {failure.why or 'there is no connection'}", Contact.NOT_ASKED)
    if failure.throttled:
        return MintRefused("AWS refused AssumeRole: too many calls", Contact.FAILED)
    text = _REFUSALS.get((failure.status, failure.code))
    return MintInDoubt("AssumeRole gave no definite answer") if text is None else MintRefused(text)


def _block_of(ref: LeaseRef) -> AwsBlock | None:
    try:
        return AwsBlock.model_validate(ref.params)
    except ValidationError:  # its text repeats the input
        return None


def _policy_of(block: AwsBlock, bound: datetime) -> str | None:
    try:
        return session_policy(block, bound)
    except PolicyTooLargeError:
        return None
