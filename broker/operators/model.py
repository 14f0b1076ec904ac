"""Who an operator is, as the operators file says it. Frozen, without I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from broker.model import Agent

GROUP = "group:"  # before the name of a group, where owners are named


class Role(Enum):
    """What an operator may do. Deciding approvals is nobody's by being something else."""

    VIEWER = "viewer"  # sees; everybody in the file does
    RESPONDER = "responder"  # revokes, freezes, resets, signs reviews
    APPROVER = "approver"  # decides approvals
    ADMIN = "admin"  # a viewer and responder; no approver

    @property
    def includes(self) -> frozenset[Role]:
        """Every role that comes with it, itself among them."""
        return frozenset({self, Role.VIEWER} | ({Role.RESPONDER} if self is Role.ADMIN else set()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """A second factor's secret, encrypted under a key that lies elsewhere; for one operator and revision."""

    revision: int  # counts from 1; each new secret has the next
    text: str  # base64


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """A person, or a tool."""

    name: str
    roles: frozenset[Role]
    ids: tuple[str, ...]  # SPIFFE IDs of its certificates
    groups: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()  # names of those that it signs scope maps with ([scopes.keys])
    second_factor: Sealed | None = None

    def has(self, role: Role) -> bool:
        """By one of its own, or by what comes with it. Everybody in the file is a viewer."""
        return role is Role.VIEWER or any(role in own.includes for own in self.roles)

    def owns(self, owners: Iterable[str]) -> bool:
        """Is it named there, or a group of it? Capitals make no difference: a slip must not make an owner a stranger."""
        own = {self.name.casefold(), *(GROUP + group.casefold() for group in self.groups)}
        return any(owner.casefold() in own for owner in owners)


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """An operator, and the certificate that it came with."""

    operator: Operator
    agent: Agent
