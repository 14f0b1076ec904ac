"""A broker without an operators file."""

from __future__ import annotations

from typing import Any

from broker.operators.model import Operator


class Nobody:
    """Is an operator."""

    def of(self, _spiffe_id: str) -> Operator | None:
        return None

    def owner_of_key(self, _key: str) -> Operator | None:
        return None

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name}: nobody is let in to ask for it")
