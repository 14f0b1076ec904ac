"""The certificate and key that the server shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509

from broker.config.certificates import pair_problems
from broker.errors import ConfigError

SOON = timedelta(days=7)  # before its end a certificate is remarked on, a short-lived one in its last quarter


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerPair:
    """PEM, checked: they belong together and can be served with."""

    cert: bytes
    key: bytes = field(repr=False)
    not_after: datetime
    renew_by: datetime  # later it is remarked on


def parse_server_pair(contents: Sequence[bytes], now: datetime, old: ServerPair | None) -> ServerPair:
    """`contents`: certificate chain and key. Raises ConfigError with everything that would make handshakes fail.

    One for other hosts than the pair in force is another server's: with it every new connection would fail.
    """
    chain, private = contents
    if problems := pair_problems(chain, private, now):
        raise ConfigError(problems)
    leaf = x509.load_pem_x509_certificates(chain)[0]
    if old is not None and not _hosts(leaf) & _hosts(x509.load_pem_x509_certificates(old.cert)[0]):
        raise ConfigError(["tls.cert_file: names none of the hosts of the one in force; when that is meant, restart"])
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    return ServerPair(
        cert=chain,
        key=private,
        not_after=leaf.not_valid_after_utc,
        renew_by=leaf.not_valid_after_utc - min(SOON, life / 4),
    )


def _hosts(leaf: x509.Certificate) -> set[str]:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {
        *names.get_values_for_type(x509.DNSName),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    }
