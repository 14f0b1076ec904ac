"""No workload's certificate can ever be an operator's: their roots have nothing to do with each other."""

from __future__ import annotations

from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.errors import ConfigError
from broker.identity.path import issued
from broker.identity.trust import Trust


def must_be_apart(trust: Trust) -> None:
    """Raises ConfigError when a root of the agents' is one of the operators', or issued one, or was issued by one."""
    agents = [root for domain in trust.agents.values() for root in domain.bundle.roots]
    operators = [root for domain in trust.operators.values() for root in domain.bundle.roots]
    problems = [
        f"the operators' trust bundle: {root.subject.rfc4514_string()} {why}; operators need an issuing CA of their own"
        for root in operators
        for why in _ties(root, agents)
    ]
    if problems:
        raise ConfigError(problems)


def shared_roots(trust: Trust) -> list[str]:
    """Remarks on roots that several domains of agents have: each of these domains can then vouch for the others' names."""
    owners: dict[bytes, tuple[str, list[str]]] = {}
    for name, domain in trust.agents.items():
        for root in domain.bundle.roots:
            owners.setdefault(_key(root), (root.subject.rfc4514_string(), []))[1].append(name)
    return [
        f"{subject} is a root of several trust domains, {', '.join(dict.fromkeys(names))}: whoever issues under it vouches for all"
        for subject, names in owners.values()
        if len(set(names)) > 1
    ]


def _ties(operators: x509.Certificate, agents: list[x509.Certificate]) -> Iterator[str]:
    for root in agents:
        if _key(root) == _key(operators):
            yield "is in the agents' trust bundle too"
        elif issued(operators, by=root):
            yield "was issued by a root in the agents' trust bundle (name the agents' issuing CA there instead)"
        elif issued(root, by=operators):
            yield "has issued a root in the agents' trust bundle"


def _key(root: x509.Certificate) -> bytes:
    return root.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
