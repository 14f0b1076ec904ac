"""Where the providers are, and how the broker logs in there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from broker.config.values import Command, Count, Duration, PublicFile, SecretFile, Share, Switch, Text, Url

_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d*:role/[\w+=,.@/-]+", re.ASCII)
_REGION = re.compile(r"[a-z][a-z0-9-]{1,31}")  # as in the scope map
_SESSION_NAME = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)  # STS's own bounds


@dataclass(frozen=True, kw_only=True, slots=True)
class AppRole:
    """The broker's own login at Vault."""

    role_id: Text
    secret_id_file: SecretFile
    mount: Text = "approle"


@dataclass(frozen=True, kw_only=True, slots=True)
class VaultCert:
    """Login with a client certificate; the files are read at each login."""

    cert_file: PublicFile
    key_file: SecretFile
    role: Text = ""  # any that matches when empty
    mount: Text = "cert"


@dataclass(frozen=True, kw_only=True, slots=True)
class VaultKubernetes:
    """Login with the service account's token, which the kubelet rotates."""

    role: Text
    # In the pod's own file system, where the kubelet lets others read it.
    jwt_file: PublicFile = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    mount: Text = "kubernetes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Vault:
    """HashiCorp Vault or OpenBao."""

    address: Url
    namespace: Text = ""
    ca_file: PublicFile | None = None  # the system's trust store when None
    token_file: SecretFile | None = None
    approle: AppRole | None = None
    cert: VaultCert | None = None
    kubernetes: VaultKubernetes | None = None
    tomb_role: Text = "stepcred-tomb"
    connect_timeout: Duration = timedelta(seconds=3)
    request_timeout: Duration = timedelta(seconds=8)  # of one request
    request_limit: Duration = timedelta(seconds=90)  # the server's own; a late mint can land until then
    max_connections: Count = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsWebIdentity:
    """A token that somebody else rotates, exchanged at STS; read at each exchange."""

    token_file: PublicFile  # Kubernetes lets others of the pod read it
    role_arn: Text
    session_name: Text = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Aws:
    """AWS STS. Without a login of its own the default chain of the SDK is used."""

    region: Text
    endpoint_url: Url = ""  # one address for everything, for emulators and Ceph
    iam_endpoint_url: Url = ""  # IAM apart from it
    access_key_id: Text = ""
    secret_access_key_file: SecretFile | None = None
    credential_process: Command = ()
    web_identity: AwsWebIdentity | None = None
    connect_timeout: Duration = timedelta(seconds=3)
    read_timeout: Duration = timedelta(seconds=6)  # without a byte of the answer
    deny_share: Share = 0.5  # of the places in a role's deny list, for one agent
    accept_unbounded_roles: Switch = False  # write deny lists also on roles without a permissions boundary
    mint_workers: Count = 8  # calls to STS at the same time
    revoke_workers: Count = 4  # calls to IAM; a lane of its own, so that a hung STS delays no revocation


def check_vault(vault: Vault) -> Vault:
    """Raises ValueError unless there is one way to log in."""
    logins = (vault.token_file, vault.approle, vault.cert, vault.kubernetes)
    if sum(login is not None for login in logins) != 1:
        raise ValueError("set exactly one of token_file, [vault.approle], [vault.cert] and [vault.kubernetes]")
    return vault


def check_aws(aws: Aws) -> Aws:
    """Raises ValueError for what is no region, for half a key, and for two ways to log in."""
    if not _REGION.fullmatch(aws.region):
        raise ValueError("region must be a region such as eu-west-1")
    if bool(aws.access_key_id) != bool(aws.secret_access_key_file):
        raise ValueError("set access_key_id and secret_access_key_file together, or neither")
    if sum(map(bool, (aws.access_key_id, aws.credential_process, aws.web_identity))) > 1:
        raise ValueError(
            "set one of access_key_id, credential_process and [aws.web_identity], or none for the SDK's default chain"
        )
    token = aws.web_identity
    if token and not _ROLE.fullmatch(token.role_arn):
        raise ValueError('web_identity.role_arn must be a role, for example "arn:aws:iam::123456789012:role/broker"')
    if token and token.session_name and not _SESSION_NAME.fullmatch(token.session_name):
        raise ValueError("web_identity.session_name must be 2 to 64 letters, digits and _+=,.@-")
    return aws
