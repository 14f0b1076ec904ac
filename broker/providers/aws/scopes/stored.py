"""What a static scope reads: one secret of AWS Secrets Manager, or one parameter of SSM."""

from __future__ import annotations

from typing import Annotated, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Without templates, but for a parameter's later segments: an agent must not choose whose secret is read.
_SECRET = r"^arn:aws(-[a-z]+)*:secretsmanager:[a-z][a-z0-9-]{1,31}:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]{1,519}$"  # noqa: S105 - a name's pattern
_SEGMENT = r"[A-Za-z0-9_.-]{1,256}"
_PATH = rf"/?{_SEGMENT}(/({_SEGMENT}|\{{[a-z][a-z0-9_]{{0,31}}\}})){{0,14}}"
_PARAMETER = (
    rf"^({_PATH}|arn:aws(-[a-z]+)*:ssm:[a-z][a-z0-9-]{{1,31}}:[0-9]{{12}}:parameter{_PATH.replace('/?', '/', 1)})$"
)
_KMS_KEY = r"^arn:aws(-[a-z]+)*:kms:[a-z][a-z0-9-]{1,31}:[0-9]{12}:key/[A-Za-z0-9-]{1,64}$"

AWSCURRENT = "AWSCURRENT"

_Key: TypeAlias = Annotated[str, Field(pattern=_KMS_KEY)]


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Secret(_Stored):
    """A secret of AWS Secrets Manager.

    Attributes:
        id: its ARN, with the six characters that AWS put at the end.
        version_id: this version for ever. Else the one at `stage` when it is read.
        stage: AWSCURRENT unless said.
        kms_key: ARN of the customer's key that it is encrypted with; nothing for the account's own key.
    """

    id: Annotated[str, Field(pattern=_SECRET)]
    version_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{32,64}$")] | None = None
    stage: Annotated[str, Field(pattern=r"^[A-Za-z0-9_+=.@-]{1,256}$")] | None = None
    kms_key: _Key | None = None

    @model_validator(mode="after")
    def _one_version(self) -> Self:
        if self.version_id and self.stage:
            raise ValueError("either version_id or stage")
        return self

    @property
    def staged(self) -> str:
        """Which stage is read; "" when it is one version by its id."""
        return "" if self.version_id else self.stage or AWSCURRENT

    @property
    def region(self) -> str:
        """Of its ARN."""
        return self.id.split(":")[3]


class Parameter(_Stored):
    """A parameter of SSM.

    Attributes:
        name: /its/name, or its ARN. A template fills a segment, but not the first one.
        version: this version for ever; else the latest when it is read.
        kms_key: ARN of the customer's key that a SecureString is encrypted with; nothing for the account's own key.
    """

    name: Annotated[str, Field(max_length=1011, pattern=_PARAMETER)]
    version: Annotated[int, Field(ge=1)] | None = None
    kms_key: _Key | None = None

    @property
    def region(self) -> str:
        """Of its ARN; "" when it has only a name."""
        return self.name.split(":")[3] if self.name.startswith("arn:") else ""

    def arn(self, partition: str, region: str, account: str) -> str:
        """Of its own, or as a name in this place."""
        if self.region:
            return self.name
        return f"arn:{partition}:ssm:{region}:{account}:parameter/{self.name.removeprefix('/')}"
