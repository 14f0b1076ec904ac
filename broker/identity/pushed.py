"""The sources that a SPIFFE agent pushes: the server's pair, and the bundle of each trust domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from broker.errors import ConfigError
from broker.identity.bundle import Bundle, parse_bundle
from broker.identity.server_pair import ServerPair, parse_server_pair
from broker.identity.source import Found, LastGood, Source, digest_of
from broker.identity.workload_api import WorkloadApi, WorkloadIdentity

T = TypeVar("T")


class PushedSource(LastGood[T]):
    """One part of what is pushed. It is whole as it comes: unlike a file, one look is enough."""

    def __init__(
        self,
        name: str,
        api: WorkloadApi,
        pick: Callable[[WorkloadIdentity], Sequence[bytes]],
        parse: Callable[[Sequence[bytes]], T],
    ) -> None:
        """Take what was pushed first.

        Args:
            name: for people.
            api: has started.
            pick: the part.
            parse: the part → value; raises ConfigError.

        Raises ConfigError when it is not good: there is no last good one to keep.
        """
        self._api = api
        self._pick = pick
        self._parse = parse
        contents = pick(api.current())
        super().__init__(name, parse(contents), digest_of(contents))

    def look(self, *, closely: bool = False) -> Found[T] | None:
        """What was pushed last, when that is something new and not refused. Raises ConfigError when it is not good."""
        self._count(closely=closely)  # nothing is ever missed
        contents = self._pick(self._api.current())
        self._seen = digest_of(contents)
        return Found(value=self._parse(contents), digest=self._seen) if self._is_news(self._seen) else None


def pushed_server(api: WorkloadApi, now: Callable[[], datetime]) -> Source[ServerPair]:
    """Raises ConfigError."""

    def parse(contents: Sequence[bytes]) -> ServerPair:
        try:
            return parse_server_pair(contents, now(), None)  # its names are the agent's to say
        except ConfigError as error:
            raise ConfigError([_of_the_agent(problem) for problem in error.problems]) from None

    return PushedSource("server certificate", api, lambda one: (one.chain_pem, one.key_pem), parse)


def _of_the_agent(problem: str) -> str:
    """It is no file that must be changed."""
    words = problem.replace("tls.cert_file", "the pushed certificate").replace("tls.key_file", "the pushed key")
    return f"tls.workload_api: {words}"


def pushed_bundle(api: WorkloadApi, trust_domain: str, name: str) -> Source[Bundle]:
    """Of the domain's agents. One that is pushed no more vouches for nobody: that is said, not lost on the way.

    Raises ConfigError.
    """

    def parse(contents: Sequence[bytes]) -> Bundle:
        return parse_bundle(contents[0], f"{name}, as pushed") if contents else Bundle(roots=(), pem=b"")

    def pick(identity: WorkloadIdentity) -> Sequence[bytes]:
        return (identity.bundles[trust_domain],) if trust_domain in identity.bundles else ()

    return PushedSource(name, api, pick, parse)
