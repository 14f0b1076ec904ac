"""The `aws` block of a scope as strict types: what an operator may write, and nothing else."""

from __future__ import annotations

import marshal
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Annotated, Literal, Self, TypeAlias, cast

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from broker.model import JsonValue
from broker.providers.aws.scopes.statement import Statement, distinct_sids
from broker.providers.aws.scopes.stored import Parameter, Secret
from broker.providers.aws.scopes.tags import ALL, SessionTags, SourceIdentity, TransitiveTags
from broker.providers.aws.scopes.texts import LISTED, PolicyArns, Region, Regions, RoleArn, Url, partition_of

LONGEST_SESSION = timedelta(hours=12)  # of AssumeRole, where the role allows it
LONGEST_CHAINED = timedelta(hours=1)
OF_EARLY_ENDS = frozenset({"revoke", "when_full", "probe"})  # keys

ExternalId: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_+=,.@:/-]{2,1224}$")]

_CALL = r"^[a-z][a-z0-9-]{1,63}:[A-Z][A-Za-z0-9]{1,127}$"

# Of a session that the agent holds; what a static scope reads is all that it gives.
_OF_SESSIONS = (
    *("statements", "policy_arns", "any_region", "may_chain", "revoke", "when_full", "probe"),
    "transitive_tags",
)


class Probe(BaseModel):
    """One harmless call that tells whether a session is dead: it works before the deny, and is refused after.

    Attributes:
        call: service:Operation, as s3:ListObjectsV2.
        arguments: its parameters, in the SDK's spelling; written `with`.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    call: Annotated[str, Field(pattern=_CALL)]
    arguments: Mapping[str, pydantic.JsonValue] = Field(default_factory=dict, alias="with")


class AwsBlock(BaseModel):
    """What a scope says about an AWS session, or about what is read with one.

    Attributes:
        role_arn: the role to assume. Never a template: an agent must not steer which role (confused deputy).
        via: a role that the broker assumes first, and as which it assumes `role_arn` and writes its policies.
        regions: where the session works; the first one is the session's default region.
        any_region: instead of `regions`, for stores that know none (Ceph). Said aloud, never by omission.
        statements: what the session may do, within what the role may do.
        policy_arns: managed policies of the role's account or AWS's own; what they allow is added to `statements`.
        secret: instead of `statements`: read this and hand out the value.
        parameter: likewise.
        session_tags: for conditions on aws:PrincipalTag; the role's trust policy must allow sts:TagSession.
        transitive_tags: which of them go on to sessions made from this one; true for all.
        source_identity: `lease` for the lease's id, a template, or a text; goes on to all sessions made from this one.
        external_id: the operator's, for the role's trust policy.
        via_external_id: likewise, for that of the role of `via`.
        may_chain: let the session make further sessions, which outlive this one's deny and bound.
        revoke: `deny` ends it early by a role policy; `bound` only waits for its time. By the tier unless said.
        when_full: with no room for one more deny: `refuse` leases, or `cutoff` all sessions of the role at once.
        probe: a harmless call that shows that the deny has arrived.
        sts_region: region of the STS endpoint; default: the broker's setting.
        fips: use the FIPS endpoint of STS there.
        sts_endpoint: another STS; default: the region's own.
        endpoint_url: what the agent's SDK shall talk to when it is not AWS itself.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    role_arn: RoleArn
    via: RoleArn | None = None
    regions: Regions = ()
    any_region: bool = False
    statements: Annotated[
        tuple[Statement, ...],
        LISTED,
        AfterValidator(distinct_sids),
        Field(min_length=1, json_schema_extra={"minItems": 1}),
    ] = ()
    policy_arns: PolicyArns = ()
    secret: Secret | None = None
    parameter: Parameter | None = None
    session_tags: SessionTags = Field(default_factory=dict)
    transitive_tags: TransitiveTags = ()
    source_identity: SourceIdentity | None = None
    external_id: ExternalId | None = None
    via_external_id: ExternalId | None = None
    may_chain: bool = False
    revoke: Literal["deny", "bound"] | None = None
    when_full: Literal["refuse", "cutoff"] = "refuse"
    probe: Probe | None = None
    sts_region: Region | None = None
    fips: bool = False
    sts_endpoint: Url | None = None
    endpoint_url: Url | None = None

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        for mistake in self._mistakes():
            raise ValueError(mistake)
        return self

    def _mistakes(self) -> Iterator[str]:
        """What no key can say alone."""
        if self.secret and self.parameter:
            yield "either secret or parameter: one lease is one credential"
        yield from self._static_mistakes() if self.stored else self._session_mistakes()
        yield from self._place_mistakes()
        if self.via == self.role_arn:
            yield "via is the role itself"
        if self.via_external_id and not self.via:
            yield "via_external_id is for the role of via, and there is none"
        if self.fips and self.sts_endpoint:
            yield "either fips or sts_endpoint"
        if unknown := [key for key in self.transitive if key not in self.session_tags]:
            yield f"transitive_tags: {unknown[0]} is not one of session_tags"

    def _session_mistakes(self) -> Iterator[str]:
        if not (self.statements or self.policy_arns):
            yield "needs statements, policy_arns, secret or parameter"
        if bool(self.regions) == self.any_region:
            yield "needs either regions or any_region: true"
        if not self.policy_arns and all(statement.Effect == "Deny" for statement in self.statements):
            yield "has no statement that allows anything"
        for arn in self.policy_arns:
            _, partition, _, _, account, _ = arn.split(":", 5)
            if account not in (self.account, "aws") or partition != self.partition:
                yield "policy_arns: must be of the role's account, or arn:aws:iam::aws:policy/…"
        if self.revoke == "bound" and (self.probe or self.when_full == "cutoff"):
            yield f"{'probe' if self.probe else 'when_full'} is for revoke: deny"

    def _static_mistakes(self) -> Iterator[str]:
        kind = "secret" if self.secret else "parameter"
        for name in _OF_SESSIONS:
            if name in self.model_fields_set:
                yield f"{name} is for sessions: the step gets the value of the {kind}, and no session"
        if isinstance(self.stored, Parameter) and not self.stored.region and not self.account:
            yield "parameter: needs its ARN, since the role's ARN names no account"
        if len(self.used_regions) != 1:
            yield f"needs exactly one region, where the {kind} is"
        if self.stored and self.stored.region not in ("", *self.used_regions):
            yield f"regions: the {kind} is in {self.stored.region}"
        if self.stored and self.stored.kms_key and self.stored.kms_key.split(":")[3] not in self.used_regions:
            yield f"kms_key: is in another region than the {kind}"

    def _place_mistakes(self) -> Iterator[str]:
        for region in (*self.used_regions, *([self.sts_region] if self.sts_region else [])):
            if partition_of(region) not in ("aws", self.partition) or (
                self.partition != "aws" and partition_of(region) == "aws"
            ):
                yield f"region {region} is not of partition {self.partition}, where the role is"
        if self.fips and self.sts_region and not self.sts_region.startswith("us-"):
            yield "fips: STS has such endpoints in us-… regions only"

    @property
    def role_name(self) -> str:
        """What IAM's API calls it: the ARN's last segment, without the path."""
        return self.role_arn.rpartition("/")[2]

    @property
    def partition(self) -> str:
        """Of the role: aws, aws-cn, aws-us-gov and so on."""
        return self.role_arn.split(":")[1]

    @property
    def account(self) -> str:
        """Of the role; "" where there are none (Ceph)."""
        return self.role_arn.split(":")[4]

    @property
    def longest_session(self) -> timedelta:
        """STS's own limit, shorter for a role that was assumed by another one."""
        return LONGEST_CHAINED if self.via else LONGEST_SESSION

    @property
    def stored(self) -> Secret | Parameter | None:
        """What a static scope reads; None when the step gets the session itself."""
        return self.secret or self.parameter

    @property
    def used_regions(self) -> tuple[str, ...]:
        """`regions`, or the one where that is what is read."""
        if not self.regions and self.stored and self.stored.region:
            return (self.stored.region,)
        return self.regions

    @property
    def transitive(self) -> tuple[str, ...]:
        """Keys of the tags that go on to further sessions."""
        return tuple(self.session_tags) if self.transitive_tags == (ALL,) else self.transitive_tags


def block_of(params: Mapping[str, JsonValue]) -> AwsBlock | None:
    """Of a lease; None when it cannot be read. Each lease of a scope asks several times: what was read is kept."""
    try:
        text = marshal.dumps(cast("dict[str, str]", params), _PLAIN)
    except ValueError:  # other mappings than JSON's
        return _read(params)
    return _remembered(text)


_PLAIN = 2  # marshal's version without references: equal values of equal types, and only those, give equal bytes


@lru_cache(maxsize=512)
def _remembered(text: bytes) -> AwsBlock | None:
    return _read(marshal.loads(text))  # noqa: S302 - written by us, just now


def _read(params: Mapping[str, JsonValue]) -> AwsBlock | None:
    try:
        return AwsBlock.model_validate(params)
    except ValidationError:  # its text repeats the input
        return None
