"""One AssumeRole per lease: what was sent, and what its answer means."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from broker.clock import Clock
from broker.model import AwsSession, JsonValue
from broker.providers.aws.asks import through
from broker.providers.aws.block import AwsBlock, block_of
from broker.providers.aws.calls import Clients, Failure, Lane
from broker.providers.aws.compile import timestamp
from broker.providers.aws.denies.lists import DenyList
from broker.providers.aws.request import assume_role
from broker.providers.aws.settings import AwsSettings
from broker.providers.base import Contact, Minted, MintInDoubt, MintOrder, MintRefused
from broker.secret import Secret

# (status, code) after which nothing was minted. Anything else may have been: a 5xx, a proxy's 403.
REFUSALS: Mapping[tuple[int, str], str] = {
    (403, "AccessDenied"): "AWS refused AssumeRole: trust policy or the broker's permissions do not allow it",
    (400, "ValidationError"): "AWS refused AssumeRole: invalid role, or beyond the role's maximum session duration",
    (400, "MalformedPolicyDocument"): "AWS refused AssumeRole: malformed session policy",
    (400, "PackedPolicyTooLarge"): "AWS refused AssumeRole: session policy too large once packed",
    (403, "RegionDisabledException"): "AWS refused AssumeRole: STS is not active in this region",
    (403, "InvalidClientTokenId"): "AWS refused AssumeRole: the broker's access key is unknown",
    (403, "SignatureDoesNotMatch"): "AWS refused AssumeRole: the broker's secret key is wrong",
    (403, "ExpiredToken"): "AWS refused AssumeRole: the broker's own credentials have expired",
}


class Minting:
    """Sends it, once."""

    def __init__(self, settings: AwsSettings, clients: Clients, lane: Lane, denies: DenyList, clock: Clock) -> None:
        self._settings = settings
        self._clients = clients
        self._lane = lane
        self._denies = denies
        self._clock = clock

    async def mint(self, order: MintOrder) -> Minted:
        """The credential works until `order.ref.expires_at`, though STS's own expiry is later."""
        block = block_of(order.ref.params)
        if block is None:
            raise MintRefused("the scope's aws block is not valid")
        parameters = assume_role(block, order, self._clock.now())
        region = block.sts_region or self._settings.sts_region
        endpoint = block.sts_endpoint or self._settings.endpoint_url
        who: dict[str, Any] = {**through(block), "fips": block.fips}
        call = partial(self._clients.call, "sts", region, endpoint, "assume_role", **who, **parameters)
        await self._denies.reserve(block, order.ref)
        answer = await self._lane.run(call)
        if isinstance(answer, Failure):
            ended = _unminted(answer)
            if isinstance(ended, MintRefused):
                self._denies.release(block, order.ref)
            raise ended
        return self._minted(block, answer, timedelta(seconds=parameters["DurationSeconds"]))

    def _minted(self, block: AwsBlock, answer: Mapping[str, Any], life: timedelta) -> Minted:
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
        refs: Mapping[str, JsonValue] = {
            "session_expires_at": timestamp(expiration),
            "issued_at": timestamp(expiration - life),
        }
        request_id = str(answer.get("ResponseMetadata", {}).get("RequestId", ""))
        return Minted(credential=session, refs=refs, provider_request_id=request_id)


def _unminted(failure: Failure) -> MintRefused | MintInDoubt:
    if not failure.sent:
        return MintRefused(f"AssumeRole was not sent: {failure.why or 'there is no connection'}", Contact.NOT_ASKED)
    if failure.throttled:
        return MintRefused("AWS refused AssumeRole: too many calls", Contact.FAILED)
    text = REFUSALS.get((failure.status, failure.code))
    return MintInDoubt("AssumeRole gave no definite answer") if text is None else MintRefused(text)
