"""The AWS provider's settings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class WebIdentity:
    """A token that somebody else rotates, exchanged at STS. `session_name`: empty = named after the installation."""

    token_file: Path
    role_arn: str
    session_name: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsSettings:
    """Constructor's argument of `AwsProvider`. No secret. At most one of the three ways to be somebody.

    Attributes:
        installation: random id of the database; its first 8 characters name the deny lists on a role.
        sts_region: where AssumeRole goes unless a scope says otherwise.
        endpoint_url: one address for STS, IAM and the agent, for emulators and Ceph; empty = AWS.
        iam_endpoint_url: IAM apart from `endpoint_url`.
        access_key_id: with `secret_access_key_file`: the broker's own key.
        credential_process: program and arguments that print one; the SDK's own format.
        web_identity: one from a token. None of the three = the SDK's default chain.
        connect_timeout: of one connection attempt. Both together stay below the engine's mint timeout (10 s).
        read_timeout: without a byte of the answer; an AssumeRole as a whole has both together.
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
    credential_process: tuple[str, ...] = ()
    web_identity: WebIdentity | None = None
    connect_timeout: timedelta = timedelta(seconds=3)
    read_timeout: timedelta = timedelta(seconds=6)
    deny_share: float = 0.5
    accept_unbounded_roles: bool = False
    mint_workers: int = 8
    revoke_workers: int = 4

    @property
    def hub_session(self) -> str:
        """What AWS's records call the broker's own sessions."""
        return f"stepcred-{self.installation[:8]}"
