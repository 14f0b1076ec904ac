"""What scopes that share a role do to each other: how often they can be ended early, who ends whom, and which way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from broker.model import NamedBlock, Remark
from broker.providers.aws.denies.looking import ROLE_CHARACTERS
from broker.providers.aws.denies.policy import entries_in
from broker.providers.aws.roles import ends_early
from broker.providers.aws.scopes.block import AwsBlock

_RATE = (
    "A session that can be ended early has a place in its role's deny list until its bound; with no place free, when_full "
    "decides. Divide the work among several roles with the same policies, shorten ttl, or say revoke: bound where the bound "
    "is early enough."
)
_CUT = (
    "A cut-off denies every session of the role that was issued before it. Give scopes that must not be ended with others' a "
    "role of their own, or say when_full: cutoff on all that share it."
)

_WAYS = (
    "The deny list of a role has one writer, which goes the way of the scope whose session is made or ended first: if that one "
    "may not, no session of the role can be ended early. Say the same via in all scopes of a role, or give each a role of its own."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Of:
    scope: str
    block: AwsBlock
    ttl: timedelta


def joint_remarks(blocks: Sequence[NamedBlock]) -> Iterator[tuple[str, Remark]]:
    """Role by role."""
    roles: dict[str, list[_Of]] = {}
    for one in blocks:
        made = AwsBlock.model_validate(one.block)
        if not made.stored:  # nothing of it outlives the read
            roles.setdefault(made.role_arn, []).append(_Of(scope=one.scope, block=made, ttl=one.ttl))
    for role, sharing in roles.items():
        yield from _rate(role, sharing)
        yield from _cut_offs(role, sharing)
        yield from _ways(role, sharing)


def _rate(role: str, sharing: list[_Of]) -> Iterator[tuple[str, Remark]]:
    """Sustained: each place is taken from the mint to the bound."""
    ended = [one for one in sharing if one.block.revoke != "bound" and one.block.when_full == "refuse"]
    if not ended:
        return
    places = entries_in(ROLE_CHARACTERS)
    each = " or ".join(f"{_per_minute(places, one.ttl)} of {one.scope}" for one in ended)
    message = f"{role} has room to end {places} sessions early, at most: sustained, {each} a minute"
    yield ended[0].scope, Remark(path=("role_arn",), rule="step-ends", message=message, help=_RATE, note=True)


def _per_minute(places: int, ttl: timedelta) -> str:
    rate = places * 60 / ttl.total_seconds()
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"  # noqa: PLR2004 - two digits say enough


def _cut_offs(role: str, sharing: list[_Of]) -> Iterator[tuple[str, Remark]]:
    spared = [one.scope for one in sharing if one.block.when_full != "cutoff"]
    for one in sharing:
        if one.block.when_full == "cutoff" and spared:
            message = f"its cut-off ends the sessions of {', '.join(spared)} as well, which share {role}"
            yield one.scope, Remark(path=("when_full",), rule="shared-cutoff", message=message, help=_CUT)


def _ways(role: str, sharing: list[_Of]) -> Iterator[tuple[str, Remark]]:
    ended = [one for one in sharing if ends_early(one.block)]
    for one in ended[1:]:
        if one.block.via != ended[0].block.via:
            message = f"{ended[0].scope} and {one.scope} go to {role} in different ways"
            yield (
                one.scope,
                Remark(path=("via",) if one.block.via else ("role_arn",), rule="two-ways", message=message, help=_WAYS),
            )
            return
