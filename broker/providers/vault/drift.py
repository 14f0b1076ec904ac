"""How a live server differs from a plan. Reads with an operator's token; changes nothing."""

from __future__ import annotations

from pathlib import Path

from broker.providers.base import ProviderError
from broker.providers.vault.client import NOT_FOUND, VaultClient
from broker.providers.vault.policies import Unreadable, differences, parse
from broker.providers.vault.provision import Plan, Policy, TokenRole
from broker.providers.vault.roles import faults, others
from broker.providers.vault.settings import TokenFile, VaultSettings
from broker.providers.vault.transport import Transport, VaultLost, VaultRefused, VaultUnreachable
from broker.secret import Secret

_MAY = "the token must be allowed to read policies and token roles, and be alive"
_HINTS = {401: _MAY, 403: _MAY, 429: "a standby, or too many requests", 503: "the server is sealed: unseal it first"}
_NO_VAULT = "is this the address of a Vault or OpenBao?"


async def drift(plan: Plan, *, address: str, token: Secret, ca_file: Path | None) -> list[str]:
    """Each difference as one line; empty when there is none. Raises ProviderError when it cannot be said.

    `token` needs to read policies and token roles, and nothing else.
    """
    settings = VaultSettings(address=address, auth=TokenFile(path=Path()), namespace=plan.namespace, ca_file=ca_file)
    if problems := settings.problems():
        raise ProviderError("; ".join(problems))
    transport = Transport(settings)
    try:
        client = VaultClient(transport)
        found = [line for policy in plan.policies for line in await _policy(client, token, policy)]
        return found + [line for role in plan.roles for line in await _role(client, token, role, plan)]
    except VaultRefused as error:
        raise ProviderError(f"vault: {error}; {_HINTS.get(error.status, _NO_VAULT)}") from None
    except (VaultUnreachable, VaultLost) as error:
        raise ProviderError(f"vault: {error}; is {address} its address, and is the server up?") from None
    finally:
        await transport.close()


async def _policy(client: VaultClient, asker: Secret, wanted: Policy) -> list[str]:
    try:
        held = parse(await client.policy(asker, wanted.name))
    except Unreadable as why:
        return [f"policy {wanted.name}: cannot be compared: {why}; see what `--format hcl` prints"]
    except VaultRefused as error:
        if error.status != NOT_FOUND:
            raise
        return [f"policy {wanted.name}: missing"]
    return [f"policy {wanted.name}: {line}" for line in differences(wanted.rules, held, more=wanted.open)]


async def _role(client: VaultClient, asker: Secret, wanted: TokenRole, plan: Plan) -> list[str]:
    try:
        held = await client.token_role(asker, wanted.name)
    except VaultRefused as error:
        if error.status != NOT_FOUND:
            raise
        return [f"token role {wanted.name}: missing"]
    found = faults(wanted, held, never=plan.broker_policies)
    if not found and (given := others(wanted, held)):
        found.append(f"gives {','.join(given)}, and not {wanted.policies[0]}")
    return [f"token role {wanted.name}: {line}" for line in found]
