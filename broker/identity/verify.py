"""Who is calling? PEM bytes of a TLS client certificate → Agent, or a refusal with its reason.

The TLS layer has checked the certificate when the connection was made. That is not enough: it accepts TLS 1.2, leaves
without extended key usage, CA certificates as leaves, RSA-1024 and any number of names; a live connection and a TLS
session ticket outlive the certificate; and a root that was removed stays good on open connections (all measured).
So every call is checked again, in the numbered steps of `Authenticator.authenticate`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from broker.clock import Clock
from broker.errors import BrokerError, Reason
from broker.identity.address import address_of
from broker.identity.bundle import MALFORMED
from broker.identity.door import FrontDoor
from broker.identity.leaf import CertificatePolicy, certificate_of, check_form, read_spiffe_id
from broker.identity.path import CA_POLICY, LEAF_POLICY, below
from broker.identity.spiffe import SpiffeId
from broker.identity.trust import Domain, Trust
from broker.model import Agent, Certificate

MAX_PEM_BYTES = 16384  # in-house bounds: a leaf has 1 to 2 kB
MAX_CHAIN_BYTES = 65536
MAX_INTERMEDIATES = 8
CACHE_ENTRIES = 4096  # about 4 kB each
PEERS_KEPT = 8  # connections that one certificate is known from


@dataclass(frozen=True, kw_only=True, slots=True)
class _Verified:
    """Everything about a certificate that does not depend on the time of the call, under one state of the trust."""

    spiffe_id: SpiffeId
    cert_sha256: str  # hex, of the DER
    certificate: Certificate
    not_after: datetime
    valid_from: datetime  # of the whole path, leaf and root included
    valid_until: datetime
    lists_until: datetime | None  # when the first of the revocation lists asked runs out
    denied: bool
    agents: dict[str, Agent] = field(default_factory=dict, repr=False, compare=False)  # by peer

    def agent(self, peer: str) -> Agent:
        """As whom its holder calls from there. Of one connection that is the same on each call."""
        found = self.agents.get(peer)
        if found is None:
            if len(self.agents) >= PEERS_KEPT:
                self.agents.clear()
            found = self.agents[peer] = Agent(
                spiffe_id=str(self.spiffe_id),
                trust_domain=self.spiffe_id.trust_domain,
                cert_sha256=self.cert_sha256,
                not_after=self.not_after,
                peer=peer,
                address=address_of(peer),
                certificate=self.certificate,
            )
        return found


def agents(trust: Trust) -> Mapping[str, Domain]:
    """Who vouches at the agents' listener."""
    return trust.agents


def operators(trust: Trust) -> Mapping[str, Domain]:
    """Who vouches at the operators' listener."""
    return trust.operators


class Authenticator:
    """Turns the certificate of a call into an Agent. One per listener: operators have a trust bundle of their own."""

    def __init__(
        self,
        door: FrontDoor,
        clock: Clock,
        policy: CertificatePolicy | None = None,
        *,
        side: Callable[[Trust], Mapping[str, Domain]] = agents,
    ) -> None:
        self._door = door
        self._clock = clock
        self._policy = policy or CertificatePolicy()
        self._side = side
        self._trust = door.trust  # under which all of the cache was decided
        self._cache: OrderedDict[bytes | tuple[bytes, bytes], _Verified] = OrderedDict()

    def authenticate(self, pem: bytes, *, tls_version: str, peer: str, chain: bytes = b"") -> Agent:
        """Check one call's certificate.

        Args:
            pem: the leaf, as the TLS layer gives it; empty when the client sent none.
            tls_version: as the TLS layer names it; only "TLSv1.3" passes.
            peer: transport address, kept for the journal.
            chain: PEM of the intermediates that the client sent, leaf included or not.

        Raises:
            BrokerError: NO_CLIENT_CERTIFICATE, CERTIFICATE_INVALID, CERTIFICATE_EXPIRED, CERTIFICATE_REVOKED,
                SPIFFE_ID_INVALID, TRUST_DOMAIN_FOREIGN or AGENT_DENIED.
        """
        # 1. TLS 1.3: gRPC has no floor to set.
        if tls_version != "TLSv1.3":
            raise _invalid("TLS 1.3 is required")
        # 2. A certificate, within the size that is ever parsed.
        if not pem:
            raise BrokerError(Reason.NO_CLIENT_CERTIFICATE, "no client certificate")
        if len(pem) > MAX_PEM_BYTES or len(chain) > MAX_CHAIN_BYTES:
            raise _invalid("the certificate or its chain is too large")
        # 3.-8. Form, name, path and revocation lists, by one state of the trust and at this moment.
        trust, now = self._door.trust, self._clock.now()
        verified = self._verified(pem, chain, trust, now)
        if self._policy.refuse_stale_crl and verified.lists_until is not None and verified.lists_until < now:
            raise _invalid("the revocation list of the certificate's issuer has run out")
        # 9. Not denied.
        if verified.denied:
            raise BrokerError(Reason.AGENT_DENIED, "this certificate or agent is denied")
        return verified.agent(peer)

    def _verified(self, pem: bytes, chain: bytes, trust: Trust, now: datetime) -> _Verified:
        """From the cache, unless the trust has changed, or the certificate or one above it is not valid now.

        Only what passed is kept, or is denied and nothing else: under the very trust, deny list included, and under all
        of the bytes that it was decided on (CVE-2025-6037: never a serial or name). A chain is of a stranger's choice and
        long, so its digest stands for it.
        """
        if trust is not self._trust:
            self._cache.clear()
            self._trust = trust
        key = (pem, hashlib.sha256(chain).digest()) if chain else pem
        found = self._cache.get(key)
        if found is not None and found.valid_from <= now <= found.valid_until:
            self._cache.move_to_end(key)
            return found
        verified = self._verify(pem, chain, trust, now)
        self._cache[key] = verified
        while len(self._cache) > CACHE_ENTRIES:
            self._cache.popitem(last=False)
        return verified

    def _verify(self, pem: bytes, chain: bytes, trust: Trust, now: datetime) -> _Verified:
        try:
            # 3. Exactly one certificate, that can be read.
            leaf = _one(pem)
            intermediates = _intermediates(chain, leaf)
            # 4. The time before the rest, so that an expired certificate is called expired.
            _check_time(leaf, now)
            # 5. An end entity for client authentication, with a sound key and life.
            check_form(leaf, self._policy)
            # 6. Exactly one URI name, and it is a SPIFFE ID of a domain that something vouches for. Never the common name.
            spiffe_id = read_spiffe_id(leaf)
            domain = self._side(trust).get(spiffe_id.trust_domain)
            if domain is None or not domain.bundle.roots:
                raise BrokerError(Reason.TRUST_DOMAIN_FOREIGN, "the certificate is of another trust domain")
            # 7. A path to one of today's roots of that very domain: one domain cannot vouch for another's names.
            path = _path(leaf, intermediates, domain, now)
            # 8. On no revocation list of an issuer on the path.
            standing = domain.crls.standing(path)
            if standing.forged:
                raise _invalid("the revocation list of a certificate's issuer is not signed by it; tell the operator")
            if standing.revoked:
                raise BrokerError(Reason.CERTIFICATE_REVOKED, "the certificate, or one above it, is revoked")
            certificate = certificate_of(leaf)
            return _Verified(
                spiffe_id=spiffe_id,
                cert_sha256=leaf.fingerprint(hashes.SHA256()).hex(),
                certificate=certificate,
                not_after=leaf.not_valid_after_utc,
                valid_from=max(one.not_valid_before_utc for one in path),
                valid_until=min(one.not_valid_after_utc for one in path),
                lists_until=standing.until,
                denied=trust.denied.names(str(spiffe_id), certificate),
            )
        except MALFORMED:
            raise _invalid("the certificate is malformed") from None


def _path(
    leaf: x509.Certificate, intermediates: list[x509.Certificate], domain: Domain, now: datetime
) -> list[x509.Certificate]:
    builder = PolicyBuilder().store(Store(list(domain.bundle.roots))).time(now)
    builder = builder.extension_policies(ca_policy=CA_POLICY, ee_policy=LEAF_POLICY)
    try:
        return builder.build_client_verifier().verify(leaf, below(domain.bundle.roots, intermediates)).chain
    except VerificationError:
        raise _invalid("no valid path from the certificate to a trusted root") from None


def _one(pem: bytes) -> x509.Certificate:
    certificates = x509.load_pem_x509_certificates(pem)
    if len(certificates) != 1:
        raise _invalid("not exactly one certificate")
    return certificates[0]


def _intermediates(chain: bytes, leaf: x509.Certificate) -> list[x509.Certificate]:
    if not chain:
        return []
    found = [one for one in x509.load_pem_x509_certificates(chain) if one != leaf]
    if len(found) > MAX_INTERMEDIATES:
        raise _invalid("the certificate chain is too long")
    return found


def _check_time(leaf: x509.Certificate, now: datetime) -> None:
    if now < leaf.not_valid_before_utc:
        raise _invalid("the certificate is not valid yet; compare the clocks")
    if now > leaf.not_valid_after_utc:
        raise BrokerError(Reason.CERTIFICATE_EXPIRED, "the certificate has expired")


def _invalid(message: str) -> BrokerError:
    return BrokerError(Reason.CERTIFICATE_INVALID, message)
