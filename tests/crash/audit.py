"""The comparison: what is alive at the backend against what the store knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from broker import keyring
from broker.leases.core import ref_of
from broker.model import Lease, LeaseState
from broker.providers.vault.names import token_id
from tests.crash.backend import Alive, Backend
from tests.crash.load import Deliveries
from tests.crash.site import TTL, Site

LIVE = tuple(state for state in LeaseState if not state.terminal)


@dataclass
class Findings:
    """Each thing found once, however often it is seen again."""

    unknown: set[str] = field(default_factory=set)
    duplicate: set[str] = field(default_factory=set)
    leaked: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)  # logins beyond the broker's reach: see Audit.at_rest

    def __str__(self) -> str:
        return f"{len(self.unknown)} unknown, {len(self.duplicate)} duplicate, {len(self.leaked)} leaked"

    @property
    def any(self) -> bool:
        return bool(self.unknown or self.duplicate or self.leaked)


@dataclass(frozen=True, kw_only=True)
class Known:
    """The store's rows that are not terminal, and the names of their tokens."""

    leases: Mapping[str, Lease]
    tokens: frozenset[str]


class Audit:
    """Compares without stopping anything: what looks wrong is looked at again before it counts."""

    def __init__(self, site: Site, backend: Backend, deliveries: Deliveries, findings: Findings) -> None:
        self._site = site
        self._backend = backend
        self._deliveries = deliveries
        self._findings = findings

    def look(self) -> Alive:
        """Backend, then store: a row that ends in between makes a suspect, and a second look clears it.

        A row never leaves a terminal state and is there before its credential: a suspect that is still alive at
        the second look is really unknown.
        """
        alive = self._backend.look()
        known = self.known()
        suspects = set(self._unknown(alive, known)), set(_duplicate(alive, known))
        if any(suspects):
            again = self._backend.look(again=True)
            self._findings.unknown |= suspects[0] & set(self._unknown(again, known))
            self._findings.duplicate |= suspects[1] & set(_duplicate(again, known))
        return alive

    def at_rest(self) -> Alive:
        """Everything has ended and nothing can land: whatever is alive has leaked.

        But for a login that no leased secret names and that was answered to nobody. When its client vanishes while
        PostgreSQL commits, OpenBao calls the creation failed and forgets it: no lease, no right of the broker's leads
        to it, and nobody has its password. It must end by itself, within the scope's ttl.
        """
        alive = self._backend.look(again=True)
        self._findings.leaked |= {f"token of lease {token.lease_id}" for token in alive.tokens}
        self._findings.leaked |= {child.id for child in alive.children}
        self._findings.forgotten |= self._backend.end_within(TTL, alive.loose - self._deliveries.logins)
        self._findings.leaked |= alive.loose - self._findings.forgotten
        return alive

    def known(self) -> Known:
        """Read beside the daemon, or after its death."""
        site = self._site
        with site.deployment.store() as store:
            control, leases = store.read(lambda tx: (tx.control(), tx.leases_in(*LIVE)))
        ring = keyring.load(site.deployment.mint_key)
        tokens = (token_id(ring, control.installation, ref_of(lease)).reveal() for lease in leases)
        return Known(leases={lease.id: lease for lease in leases}, tokens=frozenset(tokens))

    def _unknown(self, alive: Alive, known: Known) -> Iterator[str]:
        for token in alive.tokens:
            if token.lease_id not in known.leases:
                yield f"token of lease {token.lease_id}"
        for child in alive.children:
            # A secret that the database has dropped is only a record.
            if child.login in alive.logins and child.token not in known.tokens:
                yield child.id
        # A login without a leased secret is being made by a read in flight, unless somebody has it.
        yield from alive.loose & self._deliveries.logins


def _duplicate(alive: Alive, known: Known) -> Iterator[str]:
    requests = Counter(
        (known.leases[token.lease_id].agent, known.leases[token.lease_id].request_id)
        for token in alive.tokens
        if token.lease_id in known.leases
    )
    yield from (f"request {request_id}" for (_, request_id), count in requests.items() if count > 1)
