"""The server's certificate and the trust bundles as a SPIFFE agent pushes them, for brokers that keep no files of them.

The agent is believed as the files are: whoever can answer on its socket decides whom the broker lets in.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from broker.clock import Clock
from broker.errors import ConfigError, NoIdentity
from broker.identity.spiffe import TRUST_DOMAIN
from broker.log import get_logger

if TYPE_CHECKING:
    from spiffe import X509Svid
    from spiffe.workloadapi.x509_context import X509Context

log = get_logger(__name__)

FIRST_PAUSE, MAX_PAUSE = 0.1, 1.0  # seconds between two streams, ± half: a root that is gone must not wait longer
OVERDUE = 0.75  # of a certificate's life; SPIRE's agent replaces it at half
MAX_DOMAINS = 256  # in-house bound, of pushed bundles


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadIdentity:
    """One push of the agent. What it says is readable; whether it is good is for those who use it."""

    spiffe_id: str
    chain_pem: bytes  # leaf first
    key_pem: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime
    bundles: Mapping[str, bytes]  # trust domain → its roots, PEM


class WorkloadApi:
    """The last readable push. Whatever else comes, or nothing at all, changes nothing (I7), and is a `problem`."""

    def __init__(
        self,
        socket: str,
        clock: Clock,
        *,
        trust_domain: str,
        spiffe_id: str = "",
    ) -> None:
        """Nothing is asked yet.

        Args:
            socket: `unix:///path`.
            clock: for the age of the certificate.
            trust_domain: the broker's own; a push without its bundle is refused.
            spiffe_id: which of several identities; the agent's first when empty.

        Raises ConfigError without the package.
        """
        try:
            import spiffe  # noqa: F401 (used once the agent is asked)
        except ImportError:
            raise ConfigError(
                ["tls.workload_api: needs a package that is not installed; pip install 'stepcred[broker,spiffe]'"]
            ) from None
        self._socket = socket
        self._clock = clock
        self._trust_domain = trust_domain
        self._spiffe_id = spiffe_id
        self._lock = threading.Condition()
        self._identity: WorkloadIdentity | None = None
        self._generation = 0
        self._problem = "it has not answered"
        self._closed = False
        self._ended = threading.Event()  # the stream

    def start(self, wait: timedelta) -> None:
        """Begin to listen, and wait for the first push. Blocks.

        Raises NoIdentity when there is none within `wait`; then nothing listens any more.
        """
        threading.Thread(target=self._watch, name="workload api", daemon=True).start()
        with self._lock:
            self._lock.wait_for(lambda: self._identity or self._closed, wait.total_seconds())
            found, problem = self._identity, self._problem
        if found is None:
            self.close()
            raise NoIdentity(f"tls.workload_api: {self._socket}: {problem}")

    def close(self) -> None:
        """Listen no more; what was pushed last stays."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._ended.set()

    def current(self) -> WorkloadIdentity:
        """The last readable push."""
        assert self._identity is not None  # noqa: S101 - `start` has waited for it
        return self._identity

    @property
    def generation(self) -> int:
        """Rises by one with each push that says something new."""
        return self._generation

    def problem(self, now: datetime) -> str:
        """Why the last push may be out of date; empty when there is no reason to think so."""
        identity = self.current()
        if self._problem:
            return f"{self._socket}: {self._problem}; what it pushed last stays until {identity.not_after.isoformat()}"
        if now > identity.not_before + (identity.not_after - identity.not_before) * OVERDUE:
            return (
                f"{self._socket}: has sent no new certificate; the present one ends at {identity.not_after.isoformat()}"
            )
        return ""

    def _watch(self) -> None:
        """One stream after the other, with pauses that grow while none brings anything."""
        pause = FIRST_PAUSE
        while not self._closed:
            before = self._generation
            self._follow()
            pause = min(pause * 2, MAX_PAUSE) if self._generation == before else FIRST_PAUSE
            with self._lock:
                self._lock.wait_for(lambda: self._closed, pause * random.uniform(0.5, 1.5))  # noqa: S311 (no secret)

    def _follow(self) -> None:
        """One stream, until it ends. A client of its own: an older one would wait minutes before it connects again."""
        from spiffe import WorkloadApiClient

        self._ended.clear()
        try:
            with WorkloadApiClient(self._socket) as client:
                # Its own retries would hide what is wrong, and end at the first message that it cannot parse.
                stream = client.stream_x509_contexts(self._take, self._fail, retry_connect=False)
                while not self._closed and not self._ended.wait(1.0):
                    pass
                stream.cancel()
        except Exception as error:  # noqa: BLE001 - also a thread that cannot be started: nobody else begins the next stream
            self._fail(error)

    def _take(self, context: X509Context) -> None:
        try:
            identity = self._read(context)
        except ValueError as error:
            self._note(str(error))
            return
        with self._lock:
            self._problem = ""
            if identity == self._identity:
                return
            self._identity = identity
            self._generation += 1
            self._lock.notify_all()
        log.info("the SPIFFE agent pushed", spiffe_id=identity.spiffe_id, trust_domains=sorted(identity.bundles))

    def _read(self, context: X509Context) -> WorkloadIdentity:
        svid = self._pick(context.x509_svids)
        bundles = {
            bundle.trust_domain.name: b"".join(
                sorted(one.public_bytes(Encoding.PEM) for one in bundle.x509_authorities)
            )
            for bundle in context.x509_bundle_set.bundles
        }
        if len(bundles) > MAX_DOMAINS or not all(TRUST_DOMAIN.fullmatch(name) for name in bundles):
            raise ValueError("it pushed too many bundles, or one of a domain without a proper name")
        if self._trust_domain not in bundles:
            raise ValueError(f"it pushed no bundle of our own trust domain {self._trust_domain}")
        return WorkloadIdentity(
            spiffe_id=str(svid.spiffe_id),
            chain_pem=b"".join(one.public_bytes(Encoding.PEM) for one in svid.cert_chain),
            key_pem=svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            not_before=svid.leaf.not_valid_before_utc,
            not_after=svid.leaf.not_valid_after_utc,
            bundles=bundles,
        )

    def _pick(self, svids: list[X509Svid]) -> X509Svid:
        for svid in svids:
            if self._spiffe_id in ("", str(svid.spiffe_id)):
                return svid
        raise ValueError(f"it gives us {len(svids)} identities, and not {self._spiffe_id}")

    def _fail(self, error: Exception) -> None:
        """The stream is over."""
        text = str(error)
        if "PERMISSION_DENIED" in text:
            problem = "it has no identity for this process; has the broker an entry there?"
        elif "UNAVAILABLE" in text or "does not exist" in text or "stream ended" in text:
            problem = "it cannot be reached; is the agent running, and may the broker open its socket?"
        else:
            problem = f"it sent what cannot be used: {ascii(text[:200])[1:-1]}"
        self._note(problem)
        self._ended.set()

    def _note(self, problem: str) -> None:
        with self._lock:
            known, self._problem = self._problem == problem, problem
        if not known and not self._closed:
            log.warning("the SPIFFE agent gives nothing new", socket=self._socket, problem=problem)
