"""Every concrete adapter, as an explicit table."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta

from broker.clock import Clock
from broker.config import Aws, Config, Vault
from broker.keyring import Keyring
from broker.model import ScopeKind
from broker.policy.live.manifests import Manifests, Verifier
from broker.policy.signing import load_keys
from broker.providers.aws.roles import Roles
from broker.providers.aws.scopes.kind import AwsScope
from broker.providers.aws.settings import AwsSettings, WebIdentity
from broker.providers.base import LeaseRef, Provider
from broker.providers.vault.kind import VaultScope
from broker.providers.vault.settings import Auth


def scope_kinds(config: Config | None = None, roles: Roles | None = None) -> Mapping[str, ScopeKind]:
    """Every provider block that a scope map may hold; the tomb role is for no scope of a broker that has it.

    `roles`: what the AWS provider learns of them.
    """
    vault = VaultScope([config.vault.tomb_role], config.vault.namespace) if config and config.vault else VaultScope()
    kinds: tuple[ScopeKind, ...] = (vault, AwsScope(roles))
    return {kind.name: kind for kind in kinds}


def map_verifier(config: Config) -> Verifier | None:
    """Who must have signed the scope map; None when nobody must. Raises ConfigError."""
    scopes = config.scopes
    if not scopes.keys:
        return None
    return Manifests(
        manifest=os.path.relpath(scopes.manifest_file, scopes.file.parent),
        keys=load_keys(scopes.keys),
        threshold=scopes.threshold,
        threshold_high=scopes.threshold_high,
        environment=config.environment,
        trust_domain=config.trust_domain,
        site=config.guard,
    )


def providers(
    config: Config,
    ring: Keyring,
    installation: str,
    clock: Clock,
    epoch: Callable[[], int],
    *,
    known_children: Callable[[str], Awaitable[frozenset[str]]],
    open_leases: Callable[[str], Awaitable[Sequence[LeaseRef]]],
    roles: Roles | None = None,
) -> dict[str, Provider]:
    """Every configured provider. Their SDKs are imported only when used."""
    table: dict[str, Provider] = {}
    if config.vault is not None:
        table["vault"] = _vault(
            config.vault, config.timings.mint_timeout, ring, installation, clock, lambda: known_children("vault")
        )
    if config.aws is not None:
        table["aws"] = _aws(config.aws, installation, clock, epoch, lambda: open_leases("aws"), roles)
    return table


def _vault(  # noqa: PLR0917 - what a provider is made of, in one order
    settings: Vault,
    mint_timeout: timedelta,
    ring: Keyring,
    installation: str,
    clock: Clock,
    known: Callable[[], Awaitable[frozenset[str]]],
) -> Provider:
    from broker.providers.vault.provider import VaultProvider
    from broker.providers.vault.settings import VaultSettings

    return VaultProvider(
        VaultSettings(
            address=settings.address,
            auth=_vault_auth(settings),
            namespace=settings.namespace or "",
            ca_file=settings.ca_file,
            tomb_role=settings.tomb_role,
            connect_timeout=settings.connect_timeout.total_seconds(),
            request_timeout=settings.request_timeout.total_seconds(),
            request_limit_seconds=settings.request_limit.total_seconds(),
            max_connections=settings.max_connections,
            mint_timeout=mint_timeout.total_seconds(),
        ),
        ring,
        installation,
        clock,
        known=known,
    )


def _vault_auth(settings: Vault) -> Auth:
    from broker.providers.vault.settings import AppRole, Cert, Kubernetes, TokenFile

    if (approle := settings.approle) is not None:
        return AppRole(role_id=approle.role_id, secret_id_file=approle.secret_id_file, mount=approle.mount)
    if (cert := settings.cert) is not None:
        return Cert(cert_file=cert.cert_file, key_file=cert.key_file, role=cert.role, mount=cert.mount)
    if (kubernetes := settings.kubernetes) is not None:
        return Kubernetes(role=kubernetes.role, jwt_file=kubernetes.jwt_file, mount=kubernetes.mount)
    assert settings.token_file is not None  # noqa: S101 - the config allows exactly one of the four
    return TokenFile(path=settings.token_file)


def _web_identity(settings: Aws) -> WebIdentity | None:
    given = settings.web_identity
    if given is None:
        return None
    return WebIdentity(token_file=given.token_file, role_arn=given.role_arn, session_name=given.session_name)


def _aws(  # noqa: PLR0917 - what a provider is made of, in one order
    settings: Aws,
    installation: str,
    clock: Clock,
    epoch: Callable[[], int],
    open_leases: Callable[[], Awaitable[Sequence[LeaseRef]]],
    roles: Roles | None,
) -> Provider:
    from broker.providers.aws.provider import AwsProvider

    return AwsProvider(
        AwsSettings(
            installation=installation,
            sts_region=settings.region,
            endpoint_url=settings.endpoint_url,
            iam_endpoint_url=settings.iam_endpoint_url,
            access_key_id=settings.access_key_id,
            secret_access_key_file=settings.secret_access_key_file,
            credential_process=settings.credential_process,
            web_identity=_web_identity(settings),
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
            deny_share=settings.deny_share,
            accept_unbounded_roles=settings.accept_unbounded_roles,
            mint_workers=settings.mint_workers,
            revoke_workers=settings.revoke_workers,
        ),
        clock,
        epoch=epoch,
        open_leases=open_leases,
        roles=roles,
    )
