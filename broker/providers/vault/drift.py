"""How a live server differs from a plan. Reads with an operator's token; changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from broker.clock import SystemClock
from broker.providers.base import ProviderError
from broker.providers.vault.client import NOT_FOUND, VaultClient
from broker.providers.vault.login import Login, LoginFailed
from broker.providers.vault.provision import Plan, Policy, TokenRole
from broker.providers.vault.settings import TokenFile, VaultSettings
from broker.providers.vault.transport import Transport, VaultLost, VaultRefused, VaultUnreachable
from broker.secret import Secret

_RULE = re.compile(r'path\s+"([^"]+)"\s*\{\s*capabilities\s*=\s*\[([^\]]*)\]\s*,?\s*\}')
_COMMENT = re.compile(r"^\s*(#|//).*$", re.MULTILINE)
SAME = ("orphan", "renewable", "token_no_default_policy")


async def drift(plan: Plan, *, address: str, token_file: Path, ca_file: Path | None) -> list[str]:
    """Each difference as one line; empty when there is none. Raises ProviderError when it cannot be said."""
    settings = VaultSettings(
        address=address, auth=TokenFile(path=token_file), namespace=plan.namespace, ca_file=ca_file
    )
    if problems := settings.problems():
        raise ProviderError("; ".join(problems))
    transport = Transport(settings)
    try:
        client = VaultClient(transport)
        asker = (await Login(client, settings.auth, SystemClock()).session()).token
        found = [line for policy in plan.policies for line in await _policy(client, asker, policy)]
        return found + [line for role in plan.roles for line in await _role(client, asker, role)]
    except LoginFailed as error:
        raise ProviderError(str(error)) from None
    except (VaultUnreachable, VaultLost, VaultRefused) as error:
        raise ProviderError(f"vault: {error}; the token must be allowed to read policies and token roles") from None
    finally:
        await transport.close()


async def _policy(client: VaultClient, asker: Secret, wanted: Policy) -> list[str]:
    try:
        held = _rules(await client.policy(asker, wanted.name))
    except VaultRefused as error:
        if error.status != NOT_FOUND:
            raise
        return [f"policy {wanted.name}: missing"]
    if held is None:
        return [f"policy {wanted.name}: written in a way that cannot be compared; see what `--format hcl` prints"]
    return [f"policy {wanted.name}: {line}" for line in _differences(wanted, held)]


def _differences(wanted: Policy, held: Mapping[str, frozenset[str]]) -> Iterable[str]:
    for path in sorted(wanted.rules.keys() | held.keys()):
        need, have = wanted.rules.get(path, frozenset()), held.get(path, frozenset())
        if need - have:
            yield f"needs {' and '.join(sorted(need - have))} on {path}"
        if have - need and not wanted.open:
            yield f"gives {' and '.join(sorted(have - need))} on {path}, which the map does not need"


def _rules(text: str) -> dict[str, frozenset[str]] | None:
    """None when there is more in it than paths with capabilities, such as parameters."""
    text = _COMMENT.sub("", text)
    if _RULE.sub("", text).strip():
        return None
    return {path: frozenset(re.findall(r'"(\w+)"', rights)) for path, rights in _RULE.findall(text)}


async def _role(client: VaultClient, asker: Secret, wanted: TokenRole) -> list[str]:
    try:
        held = await client.token_role(asker, wanted.name)
    except VaultRefused as error:
        if error.status != NOT_FOUND:
            raise
        return [f"token role {wanted.name}: missing"]
    return [f"token role {wanted.name}: {line}" for line in _faults(wanted, held)]


def _faults(wanted: TokenRole, held: Mapping[str, Any]) -> Iterable[str]:
    if (policies := sorted(held.get("allowed_policies") or [])) != sorted(wanted.policies):
        yield f"allowed_policies are {','.join(policies) or 'none'}, not {','.join(sorted(wanted.policies))}"
    if held.get("allowed_policies_glob"):
        yield "has allowed_policies_glob"
    for name in SAME:
        if held.get(name) != wanted.fields[name]:
            yield f"{name} is {str(held.get(name)).lower()}, not {str(wanted.fields[name]).lower()}"
    if held.get("token_type") not in ("service", "default-service"):
        yield f"token_type is {held.get('token_type')}, not service"
    if 0 < (maximum := held.get("token_explicit_max_ttl") or 0) < wanted.max_seconds:
        yield f"token_explicit_max_ttl is {maximum}s, less than {wanted.max_seconds}s"
