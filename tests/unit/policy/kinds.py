"""Kinds of scope for tests: small, and strict enough to have mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from broker.model import JsonValue, NamedBlock, Powers, Remark, Revocability, ScopeKind, Tier


@dataclass
class FakeKind:
    """Wants a text `role`; takes any `data`."""

    name: str

    def validate(self, block: Mapping[str, JsonValue]) -> Sequence[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = [
            ((key,), f"unknown key {key!r}") for key in block if key not in ("role", "data")
        ]
        if not isinstance(block.get("role"), str):
            found.append((("role",), "expected text"))
        return found

    def revocability(self, block: Mapping[str, JsonValue]) -> Revocability:
        return Revocability.STATIC if block.get("role") == "static" else Revocability.EXACT

    def completed(self, block: Mapping[str, JsonValue], tier: Tier) -> Mapping[str, JsonValue]:
        return block

    def longest_life(self, block: Mapping[str, JsonValue]) -> timedelta | None:
        return None

    def powers(self, block: Mapping[str, JsonValue]) -> Sequence[str]:
        return [str(block["role"])]

    def regions(self, block: Mapping[str, JsonValue]) -> Sequence[str] | None:
        return block.get("data", {}).get("regions") if isinstance(block.get("data"), dict) else None

    def describe(self, block: Mapping[str, JsonValue], *, now: datetime, until: datetime) -> Powers:
        if block.get("data") == "never":
            return Powers(words=(), told={}, refused="its data is never good")
        return Powers(words=(f"may what {block['role']} may",), told={"kind": self.name, **block})

    def warnings(self, block: Mapping[str, JsonValue]) -> Sequence[Remark]:
        if block.get("data") != "odd":
            return []
        return [Remark(path=("data",), rule="odd-data", message="its data is odd", help="Make it even.")]

    def joint_warnings(self, blocks: Sequence[NamedBlock]) -> Sequence[tuple[str, Remark]]:
        return []

    def json_schema(self) -> JsonValue:
        return {
            "type": "object",
            "properties": {"role": {"type": "string"}, "data": {}},
            "required": ["role"],
            "additionalProperties": False,
        }


KINDS: Mapping[str, ScopeKind] = {name: FakeKind(name) for name in ("fake", "other")}
