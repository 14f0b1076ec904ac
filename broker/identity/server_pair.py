"""The certificate and key that the server shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from broker.config.certificates import pair_problems
from broker.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerPair:
    """PEM, checked: they belong together and can be served with."""

    cert: bytes
    key: bytes = field(repr=False)
    not_after: datetime


def parse_server_pair(contents: Sequence[bytes], now: datetime) -> ServerPair:
    """`contents`: certificate chain and key. Raises ConfigError with everything that would make handshakes fail."""
    cert, key = contents
    if problems := pair_problems(cert, key, now):
        raise ConfigError(problems)
    return ServerPair(cert=cert, key=key, not_after=x509.load_pem_x509_certificates(cert)[0].not_valid_after_utc)
