"""The front door: every source of trust together, reloaded while the daemon runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from broker.errors import ConfigError
from broker.identity.apart import must_be_apart, shared_roots
from broker.identity.bundle import Bundle
from broker.identity.crl import Crl, Crls
from broker.identity.deny_list import DenyList
from broker.identity.server_pair import ServerPair
from broker.identity.source import Found, Source
from broker.identity.trust import Domain, Trust
from broker.identity.workload_api import WorkloadApi
from broker.log import get_logger
from broker.model import Certificate

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainSources:
    """Where the trust in one domain's names comes from."""

    bundle: Source[Bundle]
    crls: Sequence[Source[Crls]] = ()  # each by itself: one that is bad keeps no other back

    def read(self, found: Mapping[str, Found[Any]]) -> Domain:
        """With what was found, where something was."""
        lists = tuple(one for source in self.crls for one in _value(source, found).lists)
        return Domain(bundle=_value(self.bundle, found), crls=Crls(lists=lists))


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """What came of one look at every source."""

    loaded: tuple[str, ...] = ()  # names of sources
    refused: Mapping[str, Sequence[str]] = field(default_factory=dict)  # name → problems
    moved: bool = False  # the trust is another one


class FrontDoor:
    """The sources, and what they say now. `trust` and `server` may be read from any thread."""

    def __init__(
        self,
        *,
        agents: Mapping[str, DomainSources],
        operators: Mapping[str, DomainSources] | None = None,
        deny_list: Source[DenyList] | None = None,
        server: Source[ServerPair] | None = None,
        agent: WorkloadApi | None = None,
    ) -> None:
        """By trust domain; `agent` pushes some of it.

        Raises ConfigError when a root could vouch for agents and for operators.
        """
        self._agents = dict(agents)
        self._operators = dict(operators or {})
        self._deny_list = deny_list
        self._server = server
        self._agent = agent
        self.trust = self._compose({}, generation=1)
        must_be_apart(self.trust)

    @property
    def server(self) -> ServerPair:
        """The last good one."""
        assert self._server is not None  # noqa: S101 - only listeners ask, and they are wired with one
        return self._server.value

    def ends(self) -> dict[str, datetime]:
        """What runs out by itself, and when: the server's certificate, and the first of the revocation lists."""
        found = {"server certificate": self._server.value.not_after} if self._server else {}
        lists = [one.next_update for one in self._lists()]
        return found | ({"revocation lists": min(lists)} if lists else {})

    def ending(self, now: datetime, *, ahead: timedelta) -> dict[str, datetime]:
        """What of it must be replaced soon, and when it ends: a list or root in `ahead`, or in a tenth of its life.

        A server's certificate that is replaced by itself says by when it should have been.
        """
        found = {"server certificate": self.server.not_after} if self._server and now > self.server.renew_by else {}
        for one in self._lists():
            if one.next_update - now < min(ahead, (one.next_update - one.this_update) / 10):
                found[f"revocation list of {one.issuer}"] = one.next_update
        for source in self._bundles():
            if ends := _root_ends(source.value, now, ahead):
                found[f"a root in {source.name}"] = ends
        return found

    def denies(self, spiffe_id: str, certificate: Certificate) -> bool:
        """By the trust of this moment."""
        return self.trust.denies(spiffe_id, certificate)

    def look(self, *, closely: bool = False) -> Looked:
        """Look at every source, and take what is good into force. Blocks; for one thread at a time.

        `closely`: also where nothing tells of a change.
        """
        found, refused = self._found(closely=closely)
        if not found:
            return Looked(refused=refused)
        trust = self._compose(found, generation=self.trust.generation + 1)
        try:
            must_be_apart(trust)
        except ConfigError as error:  # which of the new bundles is to blame, nobody can tell; what else is new is not
            joined = found.keys() & {source.name for source in self._bundles()}
            refused |= self._refuse(dict.fromkeys(joined, error.problems))
            found = {name: one for name, one in found.items() if name not in joined}
            trust = self._compose(found, generation=self.trust.generation + 1)
        for source in self._sources():
            if source.name in found:
                source.adopt(found[source.name])
        if moved := any(name != self._server_name for name in found):
            self.trust = trust
            for source in self._sources():  # a list of a new root is good once the root is in force
                source.again()
        return Looked(loaded=tuple(found), refused=refused, moved=moved)

    def _found(self, *, closely: bool) -> tuple[dict[str, Found[Any]], dict[str, Sequence[str]]]:
        """By name: what is new and good by itself, and what is refused and was not before."""
        found: dict[str, Found[Any]] = {}
        refused: dict[str, Sequence[str]] = {}
        for source in self._sources():
            try:
                news = source.look(closely=closely)
            except ConfigError as error:
                refused[source.name] = error.problems
            except Exception:  # one file that a parser fails on must not keep a denial in another from being seen
                log.exception("could not be read", what=source.name)
                refused[source.name] = [f"{source.name}: could not be read; the log says why"]
            else:
                if news is not None:
                    found[source.name] = news
        return found, self._refuse(refused)

    def _refuse(self, problems: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
        """What of it is to be told."""
        sources = [source for source in self._sources() if source.name in problems]
        return {source.name: problems[source.name] for source in sources if source.refuse(problems[source.name])}

    def remarks(self, now: datetime) -> list[str]:
        """What an operator must look at, while the last good trust is in force."""
        remarks = [
            f"{source.name}: what is there now is refused, and the last good one stays: {source.problems[0]}"
            for source in self._sources()
            if source.problems
        ]
        remarks += shared_roots(self.trust)
        remarks += [
            f"the revocation list of {one.issuer} ran out at {one.next_update.isoformat()}"
            for one in self._lists()
            if one.next_update < now
        ]
        if self._server is not None and now > self.server.renew_by:
            remarks.append(f"the server's certificate ends at {self.server.not_after.isoformat()}")
        remarks += [
            f"{name}: nothing vouches for its agents" for name, one in self.trust.agents.items() if not one.bundle.roots
        ]
        if self._agent is not None and (problem := self._agent.problem(now)):
            remarks.append(problem)
        return remarks

    def agent_fails(self, now: datetime) -> bool:
        """A SPIFFE agent pushes some of it, and gives nothing now."""
        return self._agent is not None and bool(self._agent.problem(now))

    @property
    def unsettled(self) -> bool:
        """Something was read that has to be seen once more."""
        return any(source.unsettled for source in self._sources())

    def refused(self) -> list[str]:
        """The sources whose newest reading is not in force, by name."""
        return [source.name for source in self._sources() if source.problems]

    def _lists(self) -> list[Crl]:
        domains = (*self.trust.agents.values(), *self.trust.operators.values())
        return [one for domain in domains for one in domain.crls.lists]

    def _compose(self, found: Mapping[str, Found[Any]], *, generation: int) -> Trust:
        return Trust(
            generation=generation,
            agents={name: sources.read(found) for name, sources in self._agents.items()},
            operators={name: sources.read(found) for name, sources in self._operators.items()},
            denied=_value(self._deny_list, found) if self._deny_list else DenyList(),
        )

    @property
    def _server_name(self) -> str:
        return self._server.name if self._server else ""

    def _sources(self) -> list[Source[Any]]:
        some = [self._server, self._deny_list, *self._bundles()]
        lists = [one for domain in self._domains() for one in domain.crls]
        return [source for source in some if source is not None] + lists

    def _bundles(self) -> list[Source[Bundle]]:
        return [domain.bundle for domain in self._domains()]

    def _domains(self) -> list[DomainSources]:
        return [*self._agents.values(), *self._operators.values()]


def _value(source: Source[Any], found: Mapping[str, Found[Any]]) -> Any:
    return found[source.name].value if source.name in found else source.value


def _root_ends(bundle: Bundle, now: datetime, ahead: timedelta) -> datetime | None:
    """The first to end soon. One that has ended is told of only where no other vouches: it stays in a bundle for long."""
    roots = {root.not_valid_after_utc: root.not_valid_before_utc for root in bundle.roots}
    soon = [end for end, begin in roots.items() if now < end and end - now < min(ahead, (end - begin) / 10)]
    if roots and max(roots) <= now:
        return max(roots)
    return min(soon, default=None)
