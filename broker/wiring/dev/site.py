"""The files of one dev broker: certificates, database, config; all of them in its private folder."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from broker.config import Address, Config, Federated, Listen, Scopes, StoreSettings, Timings, Tls
from broker.errors import ConfigError
from broker.identity import dev_ca
from broker.identity.dev_ca import Issued
from broker.identity.spiffe import SpiffeIdError, parse_spiffe_id
from broker.policy.scope_map import ScopeMap

_CA_ENVIRONMENT = "dev"  # of the throw-away CA itself, whatever the map's is called
FARTHEST = timedelta(days=28)  # that the clock may be moved: certificates live on the machine's time too, 30 days
_LIFE = timedelta(days=30)
# One process and one database: nobody waits for an epoch to run out, and a moved clock must not end one. Steps hear
# within a second of what was done to them, and what ends by time does so on the dot.
_TIMINGS = Timings(
    heartbeat=timedelta(seconds=1),
    epoch_life=timedelta(days=365),
    clock_skew=timedelta(0),
    drain_grace=timedelta(seconds=2),
)
_POLL = timedelta(seconds=5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Where everything lies. `map_file` is the user's own."""

    folder: Path
    map_file: Path
    environment: str
    trust_domain: str
    federates_with: frozenset[str]
    listen: Address
    http: Address

    @classmethod
    def make(cls, folder: Path, map_file: Path, found: ScopeMap, *, listen: Address, http: Address) -> Site:
        """With certificates for the map's trust domains; what is there already is used. Raises ConfigError, OSError."""
        site = cls(
            folder=folder,
            map_file=map_file,
            environment=found.environment,
            trust_domain=found.trust_domain,
            federates_with=found.federates_with,
            listen=listen,
            http=http,
        )
        for domain in (site.trust_domain, *site.federates_with):
            dev_ca.init(site._ca(domain), domain, _CA_ENVIRONMENT)
        if not site._server.exists():
            dev_ca.issue_server(site._ca(site.trust_domain), out=site._server.with_suffix(""))
        return site

    def forget(self) -> None:
        """The next start knows nothing of what was before. The broker must not run."""
        shutil.rmtree(self._state, ignore_errors=True)

    @property
    def root(self) -> Path:
        """By which agents know the broker."""
        return self._ca(self.trust_domain) / "ca.pem"

    def config(self) -> Config:
        """As a daemon reads it; there is no [vault] and no [aws]."""
        server, agents = self._server, self.root
        self._state.mkdir(mode=0o700, exist_ok=True)
        return Config(
            environment=self.environment,
            trust_domain=self.trust_domain,
            tls=Tls(cert_file=server, key_file=server.with_name(f"{server.stem}-key.pem"), client_ca_file=agents),
            store=StoreSettings(path=self._state / "broker.db", mint_key_file=self._state / "mint.key"),
            scopes=Scopes(file=self.map_file, poll=_POLL),
            listen=Listen(grpc=self.listen, http=self.http),
            federation={name: Federated(client_ca_file=self._ca(name) / "ca.pem") for name in self.federates_with},
            timings=_TIMINGS,
        )

    def issue(self, spiffe_id: str) -> Issued:
        """A certificate for this agent, good for as long as the clock may be moved. Raises ConfigError."""
        return issue(self.folder, spiffe_id)

    def _ca(self, domain: str) -> Path:
        return ca_of(self.folder, domain)

    @property
    def _server(self) -> Path:
        return self._ca(self.trust_domain) / "server.pem"

    @property
    def _state(self) -> Path:
        return self.folder / "state"


def ca_of(folder: Path, domain: str) -> Path:
    """The throw-away CA of a trust domain."""
    return folder / "ca" / domain


def issue(folder: Path, spiffe_id: str) -> Issued:
    """By the CA that lies in a dev broker's folder; also beside it, from another process. Raises ConfigError."""
    try:
        name = parse_spiffe_id(spiffe_id)
    except SpiffeIdError as error:
        raise ConfigError([f"{spiffe_id!r}: {error}"]) from None
    directory = ca_of(folder, name.trust_domain)
    if not directory.exists():
        known = ", ".join(sorted(path.name for path in (folder / "ca").iterdir()))
        raise ConfigError([f"{spiffe_id!r}: the map's trust domain is {known}"])
    out = folder / "agents" / hashlib.sha256(spiffe_id.encode()).hexdigest()[:16]
    return dev_ca.issue_agent(directory, spiffe_id, out, life=_LIFE)
