"""The `vault:` block of a scope: which token role, and what the broker reads with the token.

- `{role: orders-ro}`: the step gets the token itself
- `{role: orders-ro, read: database/creds/orders-ro}`: a leased login
- `{role: orders-kv, read: secret/data/orders}`: a static value (KV v2)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from broker.model import JsonValue, Revocability

# Every segment is allow-listed: role_name='../../../sys/seal' was seen to request /v1/sys/seal (measured).
SEGMENT = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
TEMPLATE = re.compile(r"\{[a-z][a-z0-9_]*\}", re.ASCII)
MIN_SEGMENTS = 2


def is_segment(text: str) -> bool:
    """One path segment, and not a step upwards."""
    return SEGMENT.fullmatch(text) is not None and set(text) != {"."}


def is_path(text: str) -> bool:
    """Segments joined by single slashes, none at the ends."""
    return all(is_segment(part) for part in text.split("/"))


def is_leased(read: str) -> bool:
    """`<mount>/creds/<name>`, where secrets engines give secrets with a lease of their own."""
    parts = read.split("/")
    return len(parts) > MIN_SEGMENTS and parts[-2] == "creds"


def _role(value: str) -> str:
    if not is_segment(value):  # no template either: a step's name must not choose a policy
        raise ValueError("expected the name of a token role: letters, digits, '_', '.', '-'")
    return value


def _read(value: str) -> str:
    parts = value.split("/")
    if len(parts) < MIN_SEGMENTS or not all(is_segment(part) or TEMPLATE.fullmatch(part) for part in parts):
        raise ValueError("expected <mount>/<path>, segments of letters, digits, '_', '.', '-', or a whole {template}")
    if TEMPLATE.fullmatch(parts[0]) or (is_leased(value) and TEMPLATE.fullmatch(parts[-1])):
        raise ValueError("a mount or a database role cannot be a template")
    return value


class VaultBlock(BaseModel):
    """Strict: nothing is coerced, nothing unknown is let through."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    role: Annotated[str, AfterValidator(_role)]
    read: Annotated[str, AfterValidator(_read)] | None = None


class VaultScope:
    """What the scope map must know of Vault (`broker.model.ScopeKind`)."""

    name = "vault"

    def validate(self, block: Mapping[str, JsonValue]) -> Sequence[tuple[tuple[str | int, ...], str]]:
        """Every mistake as (path inside the block, message)."""
        try:
            VaultBlock.model_validate(dict(block))
        except ValidationError as error:
            return [(one["loc"], one["msg"].removeprefix("Value error, ")) for one in error.errors(include_input=False)]
        return []

    def revocability(self, block: Mapping[str, JsonValue]) -> Revocability:
        """A token dies exactly, and with it a leased secret; anything else that is read lives on."""
        read = block.get("read")
        return Revocability.EXACT if read is None or is_leased(read) else Revocability.STATIC
