"""What keeps secrets engines from giving, and taking back, what scopes promise of their certificates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from broker.providers.vault.scope import Kind


def role_faults(role: Mapping[str, Any], kind: Kind, ttl: timedelta) -> Iterator[str]:
    """Of `<mount>/roles/<name>`."""
    if kind is Kind.X509 and "generate_lease" not in role:
        yield "is no pki role; for ssh keys use input: public_key"
    elif kind is Kind.X509 and not role["generate_lease"]:
        yield "needs generate_lease=true, or its certificates cannot be revoked"
    if kind is Kind.SSH and role.get("key_type") != "ca":
        yield "is no ssh role with key_type=ca; for X.509 use input: csr"
    if 0 < (maximum := role.get("max_ttl") or 0) < ttl.total_seconds():
        yield f"max_ttl is {maximum:g} s, and a scope's ttl {ttl.total_seconds():g} s"


def list_faults(held: Mapping[str, Any]) -> Iterator[str]:
    """Of `<mount>/config/crl`: until a certificate is on the list, its lease stays REVOKING."""
    if held.get("disable"):
        yield "disable=true: what is revoked is never on a list; set disable=false"
    elif held.get("auto_rebuild"):
        expiry, grace = held.get("expiry"), held.get("auto_rebuild_grace_period")
        yield f"auto_rebuild=true: what is revoked is on the list only {grace} before its {expiry} end; set it to false"
