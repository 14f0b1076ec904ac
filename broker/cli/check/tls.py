"""Looks at who comes in: the server's own certificate, and the roots of its clients."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from cryptography import x509
from cryptography.x509.oid import NameOID

from broker.cli.check.looked import Looked
from broker.clock import SystemClock
from broker.config import Config, StaleCrl
from broker.config.values import is_loopback
from broker.errors import ConfigError, NoIdentity
from broker.identity import FrontDoor
from broker.identity.trust import Trust
from broker.policy.problems import show

SOON, LATER = timedelta(days=7), timedelta(days=30)
LISTS_SOON = timedelta(hours=6)  # a CA that publishes daily has by then failed to
_THIRD = 3  # of a short life: a certificate for a day is not worth a note on its first morning
_MANY_ROOTS = 20  # an organisation has a handful; the Web PKI has 140
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 (compared, not bound)


def front_door(settings: Config) -> Looked:
    """Everything that decides who comes in, loaded as `serve` does; waits for a SPIFFE agent, where there is one."""
    from broker.wiring import listeners

    clock, agent = SystemClock(), None
    try:
        agent = listeners.spiffe_agent(settings, clock)
        door = listeners.front_door(settings, clock, agent)
    except ConfigError as error:
        return Looked(errors=error.problems)
    except NoIdentity as error:
        return Looked(errors=[str(error)])
    finally:
        if agent is not None:
            agent.close()
    parts = [
        _server(door, settings, clock.now()),
        _bundles(door.trust, clock.now()),
        _lists(door, settings, clock.now()),
    ]
    return Looked(
        errors=[error for part in parts for error in part.errors], notes=[note for part in parts for note in part.notes]
    )


def _server(door: FrontDoor, settings: Config, now: datetime) -> Looked:
    """Names, chain and end. What handshakes would fail by is an error before there is a door."""
    chain = x509.load_pem_x509_certificates(door.server.cert)
    roots = [root for domain in door.trust.agents.values() for root in domain.bundle.roots]
    notes = [*_end(chain[0], now), *_names(chain[0], settings), *_order(chain), *_top(chain, roots)]
    return Looked(errors=[*_expired_above(chain, now)], notes=notes)


def _lists(door: FrontDoor, settings: Config, now: datetime) -> Looked:
    end = door.ends().get("revocation lists")
    if end is None or end - now > LISTS_SOON:
        return Looked()
    refused = settings.tls.stale_crl is StaleCrl.REFUSE
    effect = "then its issuer's certificates are refused" if refused else "then a newer revocation is not heard of"
    return Looked(notes=[f"the first of the revocation lists is good until {end:%Y-%m-%d %H:%M} UTC; {effect}"])


def _expired_above(chain: Sequence[x509.Certificate], now: datetime) -> Iterator[str]:
    for number, issuer in enumerate(chain[1:], 2):
        if now > issuer.not_valid_after_utc:
            yield f"tls.cert_file: certificate {number}, an issuer, expired at {issuer.not_valid_after_utc.isoformat()}"


def _end(leaf: x509.Certificate, now: datetime) -> Iterator[str]:
    end, life = leaf.not_valid_after_utc, leaf.not_valid_after_utc - leaf.not_valid_before_utc
    left = end - now
    if timedelta(0) < left < min(LATER, life / _THIRD):
        hurry = "renew it now" if left < SOON else "renew it in time"
        yield f"tls.cert_file expires in {_span(left)}; {hurry}: replace the files, new connections get them"


def _span(left: timedelta) -> str:
    return f"{left.days} days" if left.days > 1 else f"{left / timedelta(hours=1):.0f} hours"


def _names(leaf: x509.Certificate, settings: Config) -> Iterator[str]:
    host = settings.listen.grpc.host
    try:
        san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return  # an error, told already
    names = [*san.get_values_for_type(x509.DNSName), *map(str, san.get_values_for_type(x509.IPAddress))]
    told = show(", ".join(names))
    if host in _EVERYWHERE:
        if all(is_loopback(name) for name in names):
            yield f"listen.grpc is every interface, and tls.cert_file names this machine alone ({told})"
    elif host not in names and not (is_loopback(host) and "localhost" in names):
        kind = "address" if _is_address(host) else "name"
        yield f"tls.cert_file is not for the {kind} of listen.grpc, {host}: agents must be given one of {told}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _order(chain: Sequence[x509.Certificate]) -> Iterator[str]:
    for number, (below, issuer) in enumerate(pairwise(chain), 2):
        try:
            below.verify_directly_issued_by(issuer)
        except Exception:  # noqa: BLE001 - InvalidSignature, ValueError and TypeError, each for "no"
            yield f"tls.cert_file: certificate {number} did not issue the one before it; some clients will not find a path"


def _top(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]) -> Iterator[str]:
    """Nobody knows here what agents have as STEPCRED_CA. Often it is the root that they hang from themselves."""
    top = chain[-1]
    if top.issuer not in [top.subject, *(root.subject for root in roots)]:
        issuer = show(top.issuer.rfc4514_string())
        yield f"tls.cert_file ends below {issuer}: agents need it in STEPCRED_CA; an intermediate belongs into this file"


def _bundles(trust: Trust, now: datetime) -> Looked:
    """Whoever can issue under a root of the agents' can be any step; under one of the operators', an operator."""
    whose = [(f"roots of {name}", domain) for name, domain in trust.agents.items()]
    whose += [("roots of operators", domain) for domain in trust.operators.values()]
    looked = [_roots(label, domain.bundle.roots, now) for label, domain in whose]
    return Looked(
        errors=[error for one in looked for error in one.errors], notes=[note for one in looked for note in one.notes]
    )


def _roots(whose: str, roots: Sequence[x509.Certificate], now: datetime) -> Looked:
    dead = [root for root in roots if not root.not_valid_before_utc <= now <= root.not_valid_after_utc]
    if len(dead) == len(roots):
        return Looked(errors=[f"{whose}: every one has expired or is not valid yet; nobody below them can call"])
    notes = [f"{whose}: {_name(root)} is not valid now; leave it out" for root in dead]
    for root in roots:
        if root not in dead:
            notes += [f"{whose}: {_name(root)} {why}" for why in _useless(root, now)]
    if len(roots) > _MANY_ROOTS:
        notes.append(
            f"{whose}: there are {len(roots)}; is it the system's bundle? Each of them can make anybody's certificate: "
            "hold a CA of your own and no other"
        )
    return Looked(notes=notes)


def _useless(root: x509.Certificate, now: datetime) -> Iterator[str]:
    try:
        usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        yield "has no key usage; a CA should say keyCertSign"
    else:
        if not usage.key_cert_sign:
            yield "may not sign certificates (no keyCertSign): what it signed is refused"
    life = root.not_valid_after_utc - root.not_valid_before_utc
    if root.not_valid_after_utc - now < min(LATER, life / _THIRD):
        yield f"expires in {_span(root.not_valid_after_utc - now)}, and all below it with it"


def _name(root: x509.Certificate) -> str:
    names = root.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return show(str(names[0].value) if names else root.subject.rfc4514_string())
