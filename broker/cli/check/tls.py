"""Looks at who comes in: the server's own certificate, and the roots of its clients."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from broker.cli.check.looked import Looked
from broker.clock import SystemClock
from broker.config import Config, StaleCrl
from broker.config.values import is_loopback
from broker.errors import ConfigError
from broker.identity.bundle import MALFORMED
from broker.policy.problems import show

SOON, LATER = timedelta(days=7), timedelta(days=30)
LISTS_SOON = timedelta(hours=6)  # a CA that publishes daily has by then failed to
_THIRD = 3  # of a short life: a certificate for a day is not worth a note on its first morning
_MIN_RSA_BITS = 2048
_MANY_ROOTS = 20  # an organisation has a handful; the Web PKI has 140
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 (compared, not bound)


def front_door(settings: Config) -> Looked:
    """Everything that decides who comes in, loaded as `serve` does: pair, bundles, revocation lists, deny list."""
    from broker.wiring import listeners

    clock = SystemClock()
    try:
        door = listeners.front_door(settings, clock)
    except ConfigError as error:
        return Looked(errors=error.problems)
    lists_end = door.ends().get("revocation lists")
    if lists_end is None or lists_end - clock.now() > LISTS_SOON:
        return Looked()
    until = f"{lists_end:%Y-%m-%d %H:%M} UTC"
    refused = settings.tls.stale_crl is StaleCrl.REFUSE
    effect = "then its issuer's certificates are refused" if refused else "then a newer revocation is not heard of"
    return Looked(notes=[f"the first of the revocation lists is good until {until}; {effect}"])


def server_certificate(settings: Config) -> Looked:
    """Its names, chain and end. What handshakes would fail by, the front door's look has said."""
    now = SystemClock().now()
    try:
        chain = x509.load_pem_x509_certificates(settings.tls.cert_file.read_bytes())
        errors = [*_expired_above(chain, now)]
        notes = [*_end(chain[0], now), *_names(chain[0], settings), *_order(chain), *_top(chain, settings)]
    except (OSError, *MALFORMED):
        return Looked()
    return Looked(errors=errors, notes=notes)


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


def _top(chain: Sequence[x509.Certificate], settings: Config) -> Iterator[str]:
    """Nobody knows here what agents have as STEPCRED_CA. Often it is the root that they hang from themselves."""
    top = chain[-1]
    if top.issuer == top.subject:
        return
    try:
        roots = x509.load_pem_x509_certificates(settings.tls.client_ca_file.read_bytes())
    except (OSError, ValueError):
        return  # the trust bundle's look says so
    if top.issuer not in [root.subject for root in roots]:
        issuer = show(top.issuer.rfc4514_string())
        yield f"tls.cert_file ends below {issuer}: agents need it in STEPCRED_CA; an intermediate belongs into this file"


def trust_bundles(settings: Config) -> Looked:
    """Whoever can issue under a root of the agents' can be any step; under one of the operators', an operator."""
    files = {"tls.client_ca_file": settings.tls.client_ca_file}
    files |= {f"federation.{name}.client_ca_file": one.client_ca_file for name, one in settings.federation.items()}
    if settings.operators is not None:
        files["operators.client_ca_file"] = settings.operators.client_ca_file
    now, errors, notes = SystemClock().now(), list[str](), list[str]()
    for option, path in files.items():
        try:
            looked = _roots(option, x509.load_pem_x509_certificates(path.read_bytes()), now)
        except (OSError, *MALFORMED):
            continue  # the front door's look has said so
        errors += looked.errors
        notes += looked.notes
    return Looked(errors=errors, notes=notes)


def _roots(option: str, roots: Sequence[x509.Certificate], now: datetime) -> Looked:
    dead = [root for root in roots if not root.not_valid_before_utc <= now <= root.not_valid_after_utc]
    if len(dead) == len(roots):
        return Looked(errors=[f"{option}: every root has expired or is not valid yet; nobody below it can call"])
    notes = [f"{option}: {_name(root)} is not valid now; leave it out" for root in dead]
    for root in roots:
        if root not in dead:
            notes += [f"{option}: {_name(root)} {why}" for why in _useless(root, now)]
    if len(roots) > _MANY_ROOTS:
        notes.append(
            f"{option}: {len(roots)} roots; is it the system's bundle? Each of them can make anybody's certificate: "
            "hold a CA of your own and no other"
        )
    return Looked(notes=notes)


def _useless(root: x509.Certificate, now: datetime) -> Iterator[str]:
    key = root.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        yield f"has a key of {key.key_size} bits: what it signed is refused"
    elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
        yield f"has a key on {key.curve.name}: what it signed is refused"
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
