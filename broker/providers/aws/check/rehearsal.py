"""The AssumeRole of a scope as a mint would send it, but for a session that may do nothing: its bound is long past."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from broker.clock import Clock
from broker.model import JsonValue, Revocability
from broker.providers.aws.asks import Asks
from broker.providers.aws.calls import Failure
from broker.providers.aws.check import trust
from broker.providers.aws.check.caller import SESSION, Caller, skewed, unasked
from broker.providers.aws.check.lookat import LONGEST_NAME, Seen
from broker.providers.aws.denies.iam import safe
from broker.providers.aws.request import assume_role
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.compile import session_policy
from broker.providers.aws.scopes.texts import UNFILLED
from broker.providers.base import DeclaredScope, Findings, LeaseRef, MintOrder, MintRefused

LONG_PAST = datetime(2000, 1, 1, tzinfo=UTC)
SAMPLE = "sample-value"  # for every template
NEARLY_PACKED = 80  # percent; values of templates may be longer than the sample
READ = timedelta(minutes=1)  # a session that only reads a value is over at once
CHAINED = timedelta(hours=1)  # AWS's limit on a session that was made from another
_MINE = frozenset(
    {"InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken", "RequestExpired", "RequestTimeTooSkewed"}
)
_INVALID = frozenset({"ValidationError", "InvalidArgument"})  # Ceph says the latter
_TOLD: Mapping[str, str] = {
    "NoSuchEntity": "its role does not exist; make it, or correct role_arn",  # Ceph's; AWS says AccessDenied
    "MalformedPolicyDocument": (
        "AWS does not take its session policy: look at the actions, ARNs and conditions of its statements"
    ),
    "PackedPolicyTooLarge": "its session policy and tags are too large once packed: shorten statements, use fewer tags",
    "RegionDisabledException": "STS is not active in its region: activate it in the account, or set another sts_region",
}
# What a trust policy allows apart from the role itself.
_EXTRAS: Mapping[str, tuple[str, ...]] = {
    "sts:TagSession": ("Tags", "TransitiveTagKeys"),
    "sts:SetSourceIdentity": ("SourceIdentity",),
}


def filled(block: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """The block with a sample in each of its templates."""
    made: Mapping[str, JsonValue] = json.loads(UNFILLED.sub(SAMPLE, json.dumps(dict(block))))
    return made


class Rehearsal:
    """`off`: how far this machine's clock is ahead, as far as is known."""

    def __init__(self, asks: Asks, clock: Clock, off: Callable[[], timedelta | None]) -> None:
        self._asks = asks
        self._clock = clock
        self._off = off

    async def of(self, scope: DeclaredScope, block: AwsBlock, caller: Caller, seen: Seen, found: Findings) -> None:
        """What keeps this scope from being minted; and what its role lets pass."""
        name = f"scope {scope.name}"
        try:
            given = powerless(scope, block, self._clock.now())
        except MintRefused as why:
            found.append(f"{name}: {why}")
            return
        answer = await self._try(block, given)
        if isinstance(answer, Failure):
            if not seen.missing:  # told with the role
                found.append(f"{name}: {await self._why(answer, scope, block, caller, seen, given)}")
            return
        packed = answer.get("PackedPolicySize")
        if isinstance(packed, int) and packed > NEARLY_PACKED:
            found.remarks.append(
                f"{name}: its session policy and tags take {packed} % of the packed size that AWS allows, with samples"
                f" of {len(SAMPLE)} characters in its templates; shorten it"
            )
        if block.external_id is not None:
            await self._without_external_id(name, block, given, found)

    async def _try(self, block: AwsBlock, given: Mapping[str, Any]) -> Mapping[str, JsonValue] | Failure:
        """Without the session's keys: nobody needs them."""
        answer = await self._asks.sts(block, "assume_role", **given)
        if isinstance(answer, Failure):
            return answer
        return {"PackedPolicySize": answer.get("PackedPolicySize")}

    async def _without_external_id(self, name: str, block: AwsBlock, given: Mapping[str, Any], found: Findings) -> None:
        less = {key: value for key, value in given.items() if key != "ExternalId"}
        if not isinstance(await self._try(block, less), Failure):
            found.remarks.append(f"{name}: the trust policy of {block.role_arn} does not demand the external id")

    async def _why(  # noqa: PLR0917 - everything that is known
        self,
        failure: Failure,
        scope: DeclaredScope,
        block: AwsBlock,
        caller: Caller,
        seen: Seen,
        given: Mapping[str, Any],
    ) -> str:
        off = self._off()
        if skewed(failure, off) or failure.code in _MINE or not failure.sent:
            return f"AssumeRole {unasked(failure, off)}"
        if failure.code == "AccessDenied":
            extra = await self._refused_extra(block, given)
            return extra or _refused(block, caller, seen)
        if failure.code in _INVALID:
            return _not_valid(scope, block, caller, seen)
        return _TOLD.get(failure.code, f"AssumeRole gave no definite answer ({safe(failure)}): ask again")

    async def _refused_extra(self, block: AwsBlock, given: Mapping[str, Any]) -> str:
        """Would the role be assumed without its tags, or its source identity?"""
        used = {right: keys for right, keys in _EXTRAS.items() if given.keys() & set(keys)}
        sets = [[right] for right in used] + ([list(used)] if len(used) > 1 else [])
        for rights in sets:
            left_out = {key for right in rights for key in used[right]}
            less = {key: value for key, value in given.items() if key not in left_out}
            if not isinstance(await self._try(block, less), Failure):
                named = " and ".join(rights)
                return f"{named} {'are' if len(rights) > 1 else 'is'} not allowed: by the trust policy of {block.role_arn}, or by the broker's own policy"
        return ""


def powerless(scope: DeclaredScope, block: AwsBlock, now: datetime) -> dict[str, Any]:
    """Parameters of the scope's AssumeRole; everything is denied to the session. Raises MintRefused."""
    ref = LeaseRef(
        lease_id=SESSION,
        agent="spiffe://stepcred/check",
        nonce=b"",
        kid="",
        params=scope.block,
        refs={},
        revocability=Revocability.EXPIRY_ONLY,
        intent_at=now,
        expires_at=now + (READ if block.stored else scope.ttl),
        epoch=0,
    )
    order = MintOrder(ref=ref, workflow=SAMPLE, run=SAMPLE, step=SAMPLE, note=_forget)
    return {**assume_role(block, order, now), "Policy": session_policy(block, LONG_PAST)}


async def _forget(_made: Mapping[str, JsonValue]) -> None:
    return None


def _refused(block: AwsBlock, caller: Caller, seen: Seen) -> str:
    """AWS does not say by whom; the trust policy may, where the broker can read it."""
    role, me = block.role_arn, caller.principal or "the broker"
    if seen.trust is None:
        or_key = "" if caller.arn else ", or the broker's key is wrong"
        return (
            f"AWS refuses AssumeRole of {role}: it does not exist, its trust policy does not name {me} (or demands another"
            f" external id), or the broker's own policy does not allow it{or_key}"
        )
    if not caller.arn:
        named = ", ".join(ascii(name[:LONGEST_NAME]) for name in trust.trusted(seen.trust)) or "nobody"
        return (
            f"AWS refuses AssumeRole of {role}, whose trust policy names {named}: if that is not the broker, let it;"
            " else the broker's key is wrong, its own policy does not allow it, or a condition does not hold"
        )
    if not trust.is_trusted(seen.trust, caller):
        return f"the trust policy of {role} does not name {me}"
    demanded = trust.external_ids(seen.trust)
    if demanded and block.external_id not in demanded:
        what = "another external id than the scope's" if block.external_id else "an external id, and the scope has none"
        return f"the trust policy of {role} demands {what}"
    return (
        f"AWS refuses AssumeRole of {role}, though its trust policy names the broker: the broker's own policy does not"
        " allow it, or a condition of the trust policy does not hold"
    )


def _not_valid(scope: DeclaredScope, block: AwsBlock, caller: Caller, seen: Seen) -> str:
    if not block.stored and seen.longest is not None and scope.ttl > seen.longest:
        return (
            f"its ttl is longer than the {seen.longest} that {block.role_arn} gives: raise the role's"
            " MaxSessionDuration, or shorten ttl"
        )
    if caller.is_session and scope.ttl > CHAINED:
        return (
            "its ttl is longer than the hour that AWS gives to a session made from another, and the broker is a"
            " session of a role itself: shorten ttl"
        )
    return f"AWS takes a parameter of its AssumeRole for invalid: the ARN {block.role_arn}, the duration, or a tag"
