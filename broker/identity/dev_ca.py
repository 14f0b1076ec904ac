"""A throw-away certificate authority, for `dev` environments only.

Its keys lie unencrypted in a directory: good for a laptop, a demo and tests, and for nothing else. Agents and the
server hang from one root, operators from another, because the daemon trusts operators from a bundle of their own.

    <dir>/dev-ca.json           trust domain and environment
    <dir>/ca.pem                root of agents and of the server     (ca-key.pem: 0600)
    <dir>/operator-ca.pem       root of operators                    (operator-ca-key.pem: 0600)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker.clock import Clock, SystemClock
from broker.errors import ConfigError, unreadable
from broker.identity.authority import (
    BACKDATE,
    Authority,
    Extensions,
    leaf_extensions,
    name_of,
    new_authority,
    new_builder,
)
from broker.identity.spiffe import TRUST_DOMAIN, SpiffeId, SpiffeIdError, parse_spiffe_id

SERVER_LIFE = timedelta(days=30)
LEAF_LIFE = timedelta(hours=24)  # agents and operators
DEV_ENVIRONMENT = re.compile(r"dev[A-Za-z0-9._-]*", re.ASCII)
LOCAL_NAMES = ("localhost", "127.0.0.1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Issued:
    """Where one certificate, its key, and the root that signed it were written (all PEM)."""

    cert: Path
    key: Path
    ca: Path


def init(directory: Path, trust_domain: str, environment: str, *, clock: Clock | None = None) -> Path:
    """Make the two roots, or find them made already, and return the path of the agents' root.

    Raises ConfigError outside `dev` environments, for a malformed trust domain, and when the directory holds a CA
    for another environment or trust domain: keys are never overwritten.
    """
    _refuse_unless_dev(environment)
    if not TRUST_DOMAIN.fullmatch(trust_domain):
        raise ConfigError([f"trust domain {trust_domain!r}: only lower-case letters, digits, '.', '-' and '_'"])
    settings = {"environment": environment, "trust_domain": trust_domain}
    if (directory / "dev-ca.json").exists():
        found = _settings(directory)
        if found != settings:
            raise ConfigError([f"{directory} already holds a CA for {found}; use another directory"])
        return directory / "ca.pem"
    if (directory / "ca-key.pem").exists():
        raise ConfigError([f"{directory} already holds a ca-key.pem that dev-ca did not finish; use another directory"])
    now = (clock or SystemClock()).now()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for prefix, title in (("ca", "agents"), ("operator-ca", "operators")):
        root = new_authority(f"stepcred dev CA, {title} of {trust_domain}", now=now)
        _write_pair(directory / prefix, root.certificate, root.key)
    # Last: what has this file is complete.
    _write(directory / "dev-ca.json", json.dumps(settings).encode() + b"\n", mode=0o600)
    return directory / "ca.pem"


def issue_agent(
    directory: Path, spiffe_id: str, out: Path, *, clock: Clock | None = None, life: timedelta = LEAF_LIFE
) -> Issued:
    """A workload's certificate, as `<out>.pem` and `<out>-key.pem`; it does not outlive its root.

    Raises ConfigError for a malformed or foreign SPIFFE ID, or a directory without a dev CA.
    """
    name = _own_name(directory, spiffe_id)
    return _issue_client(directory, "ca", name, out, clock, life)


def issue_operator(directory: Path, spiffe_id: str, out: Path, *, clock: Clock | None = None) -> Issued:
    """An operator's certificate for 24 hours, under the operators' root; errors as `issue_agent`."""
    name = _own_name(directory, spiffe_id)
    return _issue_client(directory, "operator-ca", name, out, clock, LEAF_LIFE)


def issue_server(
    directory: Path, names: Sequence[str] = LOCAL_NAMES, out: Path | None = None, *, clock: Clock | None = None
) -> Issued:
    """The daemon's certificate for these host names and addresses; `out` defaults to `<dir>/server`.

    Raises ConfigError for a directory without a dev CA, and for no or malformed names.
    """
    try:
        san = x509.SubjectAlternativeName([_host(name) for name in names])
    except ValueError as error:
        raise ConfigError([f"server name: {error}"]) from None
    if not names:
        raise ConfigError(["a server certificate needs at least one name"])
    extensions = leaf_extensions(san, ExtendedKeyUsageOID.SERVER_AUTH)
    pair = _sign(load_authority(directory), names[0], extensions, SERVER_LIFE, clock)
    return _issue(directory / "ca.pem", pair, out or directory / "server")


def load_authority(directory: Path, prefix: str = "ca") -> Authority:
    """Read a root back; `prefix` is `ca` or `operator-ca`.

    Raises ConfigError when it is not there, is malformed, or was not made for a `dev` environment.
    """
    _settings(directory)
    try:
        certificate = x509.load_pem_x509_certificate((directory / f"{prefix}.pem").read_bytes())
        key = serialization.load_pem_private_key((directory / f"{prefix}-key.pem").read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError([f"{directory}: the CA's ca.pem or ca-key.pem {unreadable(error)}"]) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError([f"{directory}: not a CA that dev-ca made"])
    return Authority(certificate=certificate, key=key)


def _issue_client(  # noqa: PLR0917 - what a certificate is made of, in one order
    directory: Path, prefix: str, name: SpiffeId, out: Path, clock: Clock | None, life: timedelta
) -> Issued:
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(name))])
    extensions = leaf_extensions(san, ExtendedKeyUsageOID.CLIENT_AUTH)
    root = directory / f"{prefix}.pem"
    return _issue(root, _sign(load_authority(directory, prefix), name.path, extensions, life, clock), out)


def _sign(
    authority: Authority, title: str, extensions: Extensions, life: timedelta, clock: Clock | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    now, end = (clock or SystemClock()).now(), authority.certificate.not_valid_after_utc
    if now >= end:
        raise ConfigError(["this dev CA has expired; make a new one in another directory"])
    key = ec.generate_private_key(ec.SECP256R1())
    builder = new_builder(name_of(title), key.public_key(), now - BACKDATE, min(now + life, end), extensions)
    return authority.sign(builder.add_extension(authority.key_identifier, critical=False)), key


def _issue(root: Path, pair: tuple[x509.Certificate, ec.EllipticCurvePrivateKey], out: Path) -> Issued:
    if not out.name or out.resolve() in {root.parent.resolve() / "ca", root.parent.resolve() / "operator-ca"}:
        raise ConfigError([f"--out {out}: not a prefix for new files, such as certs/load"])
    cert_path, key_path = _write_pair(out, *pair)
    return Issued(cert=cert_path, key=key_path, ca=root)


def _own_name(directory: Path, spiffe_id: str) -> SpiffeId:
    trust_domain = _settings(directory)["trust_domain"]
    try:
        name = parse_spiffe_id(spiffe_id)
    except SpiffeIdError as error:
        raise ConfigError([f"--id {spiffe_id!r}: {error}"]) from None
    if name.trust_domain != trust_domain:
        raise ConfigError([f"--id {spiffe_id!r}: this CA is for spiffe://{trust_domain}/…"])
    return name


def _settings(directory: Path) -> dict[str, str]:
    path = directory / "dev-ca.json"
    try:
        found = json.loads(path.read_bytes())
        settings = {"environment": str(found["environment"]), "trust_domain": str(found["trust_domain"])}
    except FileNotFoundError:
        raise ConfigError([f"{directory} holds no dev CA; make one with: stepcred-broker dev-ca init"]) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError([f"{path}: {unreadable(error)}"]) from None
    _refuse_unless_dev(settings["environment"])
    return settings


def _refuse_unless_dev(environment: str) -> None:
    if not DEV_ENVIRONMENT.fullmatch(environment):
        raise ConfigError(
            [
                f"environment {environment!r}: dev-ca leaves its keys unprotected, so it serves only names that begin with 'dev'"
            ]
        )


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_pair(prefix: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> tuple[Path, Path]:
    prefix.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    cert_path, key_path = prefix.with_name(f"{prefix.name}.pem"), prefix.with_name(f"{prefix.name}-key.pem")
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(key_path, secret, mode=0o600)
    _write(cert_path, certificate.public_bytes(pem), mode=0o644)
    return cert_path, key_path


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """Whole or not at all, and never through somebody else's link."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    fresh.replace(path)
