"""Certificate, key and CA from the SPIFFE Workload API: a local agent hands them out and replaces them by itself."""

from __future__ import annotations

import logging
import math
import random
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from stepcred._errors import NoIdentity, SettingsError
from stepcred._source import Pems

if TYPE_CHECKING:
    from spiffe import X509Svid
    from spiffe.workloadapi.x509_context import X509Context

log = logging.getLogger("stepcred")

SOCKET = "SPIFFE_ENDPOINT_SOCKET"
WAIT = 15.0  # seconds; an agent hears of a new registration entry within 5 to 10
FIRST_PAUSE, MAX_PAUSE = 0.1, 5.0  # seconds between two streams, ± half
_ID = re.compile(r"spiffe://([a-z0-9._-]{1,255})/[A-Za-z0-9._/-]+")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadApi:
    """Where the agent is and what to take from it; what is not given comes from the variable, then the default.

    Args:
        socket: `unix:///path`; SPIFFE_ENDPOINT_SOCKET.
        spiffe_id: which of several identities; STEPCRED_SPIFFE_ID; the agent's first.
        broker_trust_domain: whose bundle vouches for the broker; STEPCRED_BROKER_TRUST_DOMAIN; our own.
        wait: seconds to wait for the first certificate; STEPCRED_SPIFFE_WAIT; 15.
    """

    socket: str | None = None
    spiffe_id: str | None = None
    broker_trust_domain: str | None = None
    wait: float | None = None


class WorkloadApiSource:
    """The newest identity that the agent has pushed. While it sends nothing usable, the last good one stays."""

    def __init__(self, given: WorkloadApi, environ: Mapping[str, str]) -> None:
        """Raises SettingsError with every problem. Nothing is asked of the agent yet."""
        self._socket = given.socket or environ.get(SOCKET, "")
        self._spiffe_id = given.spiffe_id or environ.get("STEPCRED_SPIFFE_ID", "")
        self._trust_domain = given.broker_trust_domain or environ.get("STEPCRED_BROKER_TRUST_DOMAIN", "")
        wait = environ.get("STEPCRED_SPIFFE_WAIT", "") if given.wait is None else given.wait
        self._wait = _seconds(wait)
        if problems := self._problems():
            raise SettingsError(problems)
        self._lock = threading.Condition()
        self._pems: Pems | None = None
        self._not_after = datetime.max.replace(tzinfo=UTC)
        self._problem = NoIdentity(f"the SPIFFE Workload API at {self._socket} did not answer within {self._wait:g} s")
        self._closed = False
        self._ended = threading.Event()  # the stream

    def _problems(self) -> list[str]:
        problems = []
        if not re.fullmatch(r"unix:/.+", self._socket):
            problems.append(f"{SOCKET} must be unix:///path/of/the/socket, not {self._socket!r}")
        if self._spiffe_id and not _ID.fullmatch(self._spiffe_id):
            problems.append(f"STEPCRED_SPIFFE_ID must be spiffe://trust-domain/path, not {self._spiffe_id!r}")
        if self._trust_domain and not _TRUST_DOMAIN.fullmatch(self._trust_domain):
            problems.append(f"STEPCRED_BROKER_TRUST_DOMAIN must be a trust domain's name, not {self._trust_domain!r}")
        if not (math.isfinite(self._wait) and self._wait > 0):
            problems.append("STEPCRED_SPIFFE_WAIT must be a positive number of seconds")
        try:
            import spiffe  # noqa: F401 (used once the agent is asked)
        except ImportError:
            problems.append(f"{SOCKET} needs a package that is not installed: pip install 'stepcred[spiffe]'")
        return problems

    def start(self) -> None:
        threading.Thread(target=self._watch, name="stepcred-workload-api", daemon=True).start()
        with self._lock:
            self._lock.wait_for(lambda: self._pems or self._closed, self._wait)
        try:
            self.current()
        except NoIdentity:
            self.close()
            raise

    def current(self) -> Pems:
        with self._lock:
            if self._pems is None:
                raise self._problem
            if datetime.now(UTC) > self._not_after:
                raise NoIdentity(f"our certificate expired at {self._not_after:%Y-%m-%d %H:%M} UTC: {self._problem}")
            return self._pems

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._ended.set()

    def _watch(self) -> None:
        """One stream after the other, with pauses that grow while none brings anything."""
        pause = FIRST_PAUSE
        while not self._closed:
            before = self._pems
            self._follow()
            pause = min(pause * 2, MAX_PAUSE) if self._pems is before else FIRST_PAUSE
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
            svid = self._pick(context.x509_svids)
            pems = self._pems_of(svid, context)
        except NoIdentity as problem:
            self._note(problem)
            return
        with self._lock:
            if pems != self._pems:
                self._pems = pems
            self._not_after = svid.leaf.not_valid_after_utc
            self._problem = NoIdentity(f"the SPIFFE Workload API at {self._socket} has sent no newer one")
            self._lock.notify_all()

    def _pick(self, svids: list[X509Svid]) -> X509Svid:
        for svid in svids:
            if self._spiffe_id in ("", str(svid.spiffe_id)):
                return svid
        names = ", ".join(str(svid.spiffe_id) for svid in svids)
        raise NoIdentity(f"the SPIFFE Workload API gives us {names}, and not STEPCRED_SPIFFE_ID {self._spiffe_id}")

    def _pems_of(self, svid: X509Svid, context: X509Context) -> Pems:
        """What is not good together would be met as an unreachable broker: so it is looked at here."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
        from spiffe import TrustDomain

        if svid.private_key.public_key() != svid.leaf.public_key():
            raise NoIdentity(f"the SPIFFE Workload API at {self._socket} sent a key that is not the certificate's")
        if svid.leaf.not_valid_after_utc < datetime.now(UTC):
            raise NoIdentity(f"the SPIFFE Workload API at {self._socket} sent a certificate that has expired")
        domain = self._trust_domain or svid.spiffe_id.trust_domain.name
        bundle = context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain(domain))
        if bundle is None:
            raise NoIdentity(
                f"the SPIFFE Workload API at {self._socket} has no bundle of the broker's trust domain {domain}; "
                "does this workload's entry federate with it?"
            )
        return Pems(
            cert=b"".join(one.public_bytes(Encoding.PEM) for one in svid.cert_chain),
            key=svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            ca=b"".join(sorted(one.public_bytes(Encoding.PEM) for one in bundle.x509_authorities)),
        )

    def _fail(self, error: Exception) -> None:
        """The stream is over."""
        text = str(error)
        where = f"the SPIFFE Workload API at {self._socket}"
        if "PERMISSION_DENIED" in text:
            self._note(NoIdentity(f"{where} has no identity for this process: has it an entry there?", not_yet=True))
        elif "UNAVAILABLE" in text or "does not exist" in text or "stream ended" in text:
            self._note(NoIdentity(f"{where} cannot be reached; is the agent running, and the socket mounted?"))
        else:
            self._note(NoIdentity(f"{where} sent what cannot be used: {ascii(text[:200])[1:-1]}"))
        self._ended.set()

    def _note(self, problem: NoIdentity) -> None:
        with self._lock:
            if str(problem) != str(self._problem):
                log.warning("%s", problem)
            self._problem = problem


def _seconds(value: float | str) -> float:
    if value == "":
        return WAIT
    try:
        return float(value)
    except ValueError:
        return math.nan
