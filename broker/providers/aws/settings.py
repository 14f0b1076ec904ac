"""The AWS provider's settings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsSettings:
    """Constructor's argument of `AwsProvider`. No secret: keys come from a file, or from boto3's default chain.

    Attributes:
        installation: random id of the database; its first 8 characters name the deny lists on a role.
        sts_region: where AssumeRole goes unless a scope says otherwise.
        endpoint_url: one address for STS, IAM and the agent, for emulators and Ceph; empty = AWS.
        iam_endpoint_url: IAM apart from `endpoint_url`.
        access_key_id: with `secret_access_key_file`: the broker's own key; empty = default chain.
        connect_timeout: of one connection attempt. Both together stay below the engine's mint timeout (10 s).
        read_timeout: without a byte of the answer.
        deny_share: of a role's places in its deny list, how many one agent may hold.
        accept_unbounded_roles: deny sessions also on roles without a permissions boundary.
        mint_workers: calls to STS at the same time.
        revoke_workers: calls to IAM at the same time; a lane of its own, so that a hung STS delays no deny.
    """

    installation: str
    sts_region: str = "us-east-1"
    endpoint_url: str = ""
    iam_endpoint_url: str = ""
    access_key_id: str = ""
    secret_access_key_file: Path | None = None
    connect_timeout: timedelta = timedelta(seconds=3)
    read_timeout: timedelta = timedelta(seconds=6)
    deny_share: float = 0.5
    accept_unbounded_roles: bool = False
    mint_workers: int = 8
    revoke_workers: int = 4
