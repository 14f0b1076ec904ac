"""What decides who comes in, at one moment: immutable, so that a call is judged by one state of things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.identity.bundle import Bundle
from broker.identity.crl import Crls
from broker.identity.deny_list import DenyList
from broker.model import Certificate


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """What vouches for the names of one trust domain, and for no other's."""

    bundle: Bundle
    crls: Crls = field(default_factory=Crls)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """By trust domain. Agents and operators have nothing in common but the deny list."""

    generation: int = 1  # rises with each change; whatever was decided under an older one is void
    agents: Mapping[str, Domain]
    operators: Mapping[str, Domain] = field(default_factory=dict)
    denied: DenyList = field(default_factory=DenyList)

    def denies(self, spiffe_id: str, certificate: Certificate) -> bool:
        """Is this agent, or this certificate of its, denied or revoked? For what was opened with it.

        A caller's own certificate is asked about more closely, by its whole path.
        """
        domain = self.agents.get(spiffe_id.removeprefix("spiffe://").split("/", 1)[0])
        return self.denied.names(spiffe_id, certificate) or (domain is not None and domain.crls.names(certificate))
