"""What the scope map must know of Vault: is a block good, and how dead can its credentials be made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from pydantic import ValidationError

from broker.model import JsonValue, NamedBlock, Powers, Remark, Revocability, Tier
from broker.providers.vault.describe import powers_of
from broker.providers.vault.scope import RESERVED, ROLE, SERVERS_OWN, Kind, VaultBlock, read_block
from broker.providers.vault.settings import namespace_name


class VaultScope:
    """What the scope map must know of Vault (`broker.model.ScopeKind`).

    `reserved`: roles that no scope may use. `namespace`: the broker's, "" for the root; tools do not know it.
    """

    name = "vault"

    def __init__(self, reserved: Iterable[str] = (), namespace: str = "") -> None:
        self._reserved = RESERVED.union(reserved)
        self._namespace = namespace_name(namespace)

    def validate(self, block: Mapping[str, JsonValue]) -> Sequence[tuple[tuple[str | int, ...], str]]:
        """Every mistake as (path inside the block, message)."""
        try:
            made = read_block(block)
        except ValidationError as error:
            return [(one["loc"], one["msg"].removeprefix("Value error, ")) for one in error.errors(include_input=False)]
        return list(self._unwanted(made))

    def _unwanted(self, block: VaultBlock) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Not for the block itself: one that was once let through must still be read, to end its leases."""
        if ROLE.fullmatch(block.role) is None:
            yield ("role",), "expected a name in lower case, a-z 0-9 _ . -, that begins with a letter or digit"
        elif block.role in self._reserved:
            yield ("role",), f"{block.role} is not for scopes: give this one a token role of its own"
        if block.path.split("/")[0] in SERVERS_OWN:
            place: tuple[str, ...] = ("write", "path") if block.write else ("read",)
            yield place, f"{block.path.split('/')[0]}/ is the server's own, not a secrets engine"

    def completed(self, block: Mapping[str, JsonValue], tier: Tier) -> Mapping[str, JsonValue]:  # noqa: ARG002 - as the protocol has it
        """A tier decides nothing here."""
        return block

    def longest_life(self, block: Mapping[str, JsonValue]) -> timedelta | None:  # noqa: ARG002 - as the protocol has it
        """Said in the server."""
        return None

    def revocability(self, block: Mapping[str, JsonValue]) -> Revocability:
        """A token dies exactly, and with it a leased secret; a certificate is published; a stored value lives on."""
        return read_block(block).kind.revocability

    def powers(self, block: Mapping[str, JsonValue]) -> Sequence[str]:
        """The token role, and the secrets engine's: `database/creds/orders`, or of stored values the first folder."""
        made = read_block(block)
        if not made.path:
            return [made.role]
        parts = made.path.split("/")
        if made.kind is Kind.STATIC:  # <mount>/data/<folder>/… (KV v2), or <mount>/<folder>/…
            parts = parts[: 3 if parts[1] == "data" else 2]
        return [made.role, "/".join(parts)]

    def regions(self, block: Mapping[str, JsonValue]) -> Sequence[str] | None:  # noqa: ARG002 - as the protocol has it
        """A server is where it is."""
        return None

    def describe(self, block: Mapping[str, JsonValue], *, now: datetime, until: datetime) -> Powers:  # noqa: ARG002 - as the protocol has it
        """What is handed out, and where the server says what it may do."""
        return powers_of(block, self._namespace)

    def warnings(self, block: Mapping[str, JsonValue]) -> Sequence[Remark]:  # noqa: ARG002 - as the protocol has it
        """What a role may do is said in the server."""
        return []

    def joint_warnings(self, blocks: Sequence[NamedBlock]) -> Sequence[tuple[str, Remark]]:  # noqa: ARG002 - as the protocol has it
        """Each lease has a token of its own."""
        return []

    def json_schema(self) -> JsonValue:
        """Of the block."""
        return VaultBlock.model_json_schema()
