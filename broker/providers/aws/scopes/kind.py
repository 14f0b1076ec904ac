"""What the scope map must know of AWS: is a block good, and how dead can its sessions be made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from pydantic import ValidationError

from broker.model import JsonValue, NamedBlock, Powers, Remark, Revocability, Tier
from broker.providers.aws.describe import powers_of
from broker.providers.aws.roles import Roles
from broker.providers.aws.scopes.block import OF_EARLY_ENDS, AwsBlock
from broker.providers.aws.scopes.joint import joint_remarks
from broker.providers.aws.scopes.mistakes import Problem, problems
from broker.providers.aws.scopes.probe_calls import mistake
from broker.providers.aws.scopes.reading import parameter_arn
from broker.providers.aws.scopes.remarks import never_fits, remarks
from broker.providers.aws.scopes.schema import json_schema


class AwsScope:
    """`ScopeKind` of the `aws` block. Imports no SDK."""

    name = "aws"

    def __init__(self, roles: Roles | None = None) -> None:
        """`roles`: what is known of their policies; tools know nothing."""
        self._roles = roles or Roles()

    def validate(self, block: Mapping[str, JsonValue]) -> Sequence[Problem]:
        """Every mistake as (path, message). Templates count one character each: what does not fit then never will."""
        try:
            good = AwsBlock.model_validate(block)
        except ValidationError as error:
            return problems(error.errors(include_url=False, include_input=False))
        if good.probe and (wrong := mistake(good.probe.call, good.probe.arguments)):
            return [(("probe",), wrong)]
        return list(never_fits(good))

    def completed(self, block: Mapping[str, JsonValue], tier: Tier) -> Mapping[str, JsonValue]:
        """`revoke` where it is not said: IAM limits the rate of writes, so tier `low` only waits for the bound.

        What says how to end a session early asks for it. No scope gets it whose role's policies the broker may not write.
        """
        made = AwsBlock.model_validate(block)
        if not made.stored and self._roles.why_not(made):
            return {**{key: value for key, value in block.items() if key not in OF_EARLY_ENDS}, "revoke": "bound"}
        if made.stored or made.revoke:
            return block
        early = tier is not Tier.LOW or made.probe or "when_full" in made.model_fields_set
        return {**block, "revoke": "deny" if early else "bound"}

    def longest_life(self, block: Mapping[str, JsonValue]) -> timedelta | None:
        """STS's own limit; of a stored value none, the session that reads it is over at once."""
        made = AwsBlock.model_validate(block)
        return None if made.stored else made.longest_session

    def revocability(self, block: Mapping[str, JsonValue]) -> Revocability:
        """DENY_POLICY, or EXPIRY_ONLY by `revoke: bound`; STATIC of what is only read."""
        made = AwsBlock.model_validate(block)
        if made.stored:
            return Revocability.STATIC
        return Revocability.EXPIRY_ONLY if made.revoke == "bound" else Revocability.DENY_POLICY

    def why_weaker(self, block: Mapping[str, JsonValue]) -> str:
        """What AWS refused."""
        return self._roles.why_not(AwsBlock.model_validate(block))

    def powers(self, block: Mapping[str, JsonValue]) -> Sequence[str]:
        """The role's ARN, since a session never has more than its role; and what makes others trust, end or outlive it.

        Not `policy_arns` and `kms_key`: they give nothing that the role does not have.
        """
        made = AwsBlock.model_validate(block)
        told = {
            "via": made.via,
            "secret": made.secret and made.secret.id,
            "parameter": made.parameter and parameter_arn(made),
            "sts_endpoint": made.sts_endpoint,
            "endpoint_url": made.endpoint_url,
            "may_chain": made.may_chain,
            "when_full": "cutoff" if made.when_full == "cutoff" else None,  # ends others' sessions as well
            "source_identity": made.source_identity,
        }
        tags = (f"session_tag:{key}={value}" for key, value in made.session_tags.items())
        return [made.role_arn, *(f"{name}:{value}" for name, value in told.items() if value), *tags]

    def regions(self, block: Mapping[str, JsonValue]) -> Sequence[str] | None:
        """Those that the session policy lets it use."""
        return AwsBlock.model_validate(block).used_regions

    def describe(self, block: Mapping[str, JsonValue], *, now: datetime, until: datetime) -> Powers:
        """The session policy as it would be sent, with everything else that decides what the session may do."""
        return powers_of(block, now=now, until=until)

    def warnings(self, block: Mapping[str, JsonValue]) -> Sequence[Remark]:
        """Statements without edges, and a policy that might not fit; templates count 64 characters each."""
        return list(remarks(AwsBlock.model_validate(block)))

    def joint_warnings(self, blocks: Sequence[NamedBlock]) -> Sequence[tuple[str, Remark]]:
        """Of scopes that share a role."""
        return list(joint_remarks(blocks))

    def json_schema(self) -> JsonValue:
        """Of the block."""
        return json_schema()
