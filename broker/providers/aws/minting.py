"""One AssumeRole per lease: what was sent, and what its answer means."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from broker.clock import Clock
from broker.model import AwsSession, JsonValue
from broker.providers.aws.assume.calls import AssumeRole
from broker.providers.aws.calls import Failure
from broker.providers.aws.denies.iam import told
from broker.providers.aws.denies.lists import DenyList
from broker.providers.aws.request import assume_role
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.compile import timestamp
from broker.providers.aws.settings import AwsSettings
from broker.providers.base import ISSUED_AT, Contact, Minted, MintInDoubt, MintOrder, MintRefused
from broker.secret import Secret

# (status, code) after which nothing was minted. Anything else may have been: a 5xx, a proxy's 403.
REFUSALS: Mapping[tuple[int, str], str] = {
    (
        403,
        "AccessDenied",
    ): "the role does not exist, or its trust policy or the broker's own permissions do not allow it",
    (404, "NoSuchEntity"): "there is no such role",  # Ceph's
    (400, "ValidationError"): "a parameter is not valid: the role's ARN, or more than its maximum session duration",
    (
        400,
        "InvalidArgument",
    ): "a parameter is not valid: the role's ARN, or more than its maximum session duration",  # Ceph's
    (400, "MalformedPolicyDocument"): "malformed session policy: an action, ARN or condition that it does not know",
    (400, "PackedPolicyTooLarge"): "session policy and tags are too large once packed",
    (403, "RegionDisabledException"): "STS is not active in this region",
    (403, "InvalidClientTokenId"): "the broker's access key is unknown",
    (403, "SignatureDoesNotMatch"): "the broker's secret key is wrong, or its clock",
    (400, "RequestExpired"): "the request came too late: compare the clocks",
    (403, "RequestExpired"): "the request came too late: compare the clocks",
    (403, "RequestTimeTooSkewed"): "the broker's clock is wrong",
    (403, "ExpiredToken"): "the broker's own credentials have expired",
    (403, "ExpiredTokenException"): "the broker's own credentials have expired",
    (400, "ExpiredTokenException"): "the broker's own credentials have expired",
}
# What the trust policy must allow beside the role: AWS does not say which of them it refused.
_EXTRAS: Mapping[str, str] = {"Tags": "sts:TagSession", "SourceIdentity": "sts:SetSourceIdentity"}
LOOK = "stepcred-broker check --live tells more"


class Minting:
    """Sends it, once."""

    def __init__(self, settings: AwsSettings, sts: AssumeRole, denies: DenyList, clock: Clock) -> None:
        self._settings = settings
        self._sts = sts
        self._denies = denies
        self._clock = clock

    async def mint(self, order: MintOrder, block: AwsBlock) -> Minted:
        """The credential works until `order.ref.expires_at`, though STS's own expiry is later."""
        parameters = assume_role(block, order, self._clock.now())
        await self._denies.reserve(block, order.ref)
        answer = await self._sts.call(block, parameters)
        if isinstance(answer, Failure):
            ended = _unminted(answer, parameters)
            if isinstance(ended, MintRefused):
                self._denies.release(block, order.ref)
            raise ended
        if not _answers(answer, order.ref.lease_id):
            raise MintInDoubt("the answer of AssumeRole is about another session")
        return self._minted(block, answer, timedelta(seconds=parameters["DurationSeconds"]))

    def _minted(self, block: AwsBlock, answer: Mapping[str, Any], life: timedelta) -> Minted:
        """Raises MintInDoubt when the answer is not whole: there may be a session all the same."""
        held = answer.get("Credentials", {})
        key_id, key, token, expiration = (
            held.get(name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
        )
        if not (key_id and key and token and isinstance(expiration, datetime)):
            raise MintInDoubt("the answer of AssumeRole holds no whole session")
        if expiration <= self._clock.now():
            raise MintInDoubt("AssumeRole gave a session that has already ended: compare the clocks")
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
            ISSUED_AT: timestamp(expiration - life),
        }
        request_id = str(answer.get("ResponseMetadata", {}).get("RequestId", ""))
        return Minted(credential=session, refs=refs, provider_request_id=request_id)


def _answers(answer: Mapping[str, Any], session_name: str) -> bool:
    """Is it about this session? What comes between an STS and the broker may mix up answers; not all name one."""
    whose = str(answer.get("AssumedRoleUser", {}).get("Arn") or "")
    return not whose or whose.endswith(f"/{session_name}")


def _unminted(failure: Failure, asked: Mapping[str, JsonValue]) -> MintRefused | MintInDoubt:
    if not failure.sent:
        return MintRefused(f"AssumeRole was not sent: {failure.why or 'there is no connection'}", Contact.NOT_ASKED)
    if failure.throttled:
        return MintRefused("AWS refused AssumeRole: too many calls", Contact.FAILED)
    text = REFUSALS.get((failure.status, failure.code))
    if text is None:
        return MintInDoubt(f"AssumeRole gave no definite answer ({told(failure)})")
    extras = [right for name, right in _EXTRAS.items() if name in asked and failure.code == "AccessDenied"]
    also = f" (it must allow {' and '.join(extras)} too)" if extras else ""
    return MintRefused(f"AWS refused AssumeRole: {text}{also}; {LOOK}")
