"""What an attacker knows of the daemon, and how much of it there is."""

from __future__ import annotations

import json
import ssl
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc

from tests.support.certs import Creds


@dataclass(frozen=True, kw_only=True)
class Target:
    """An address, and a certificate that is let in: these attackers are agents, or strangers that do not use it."""

    port: int
    cert: str
    key: str
    ca: str
    seconds: float  # of the attack
    size: float  # 1.0 is the long form
    seed: int

    @staticmethod
    def of(port: int, creds: Creds, *, seconds: float, size: float, seed: int) -> Target:
        files = {"cert": str(creds.cert), "key": str(creds.key), "ca": str(creds.ca)}
        return Target(port=port, **files, seconds=seconds, size=size, seed=seed)

    def scaled(self, count: int) -> int:
        """So many in the long form."""
        return max(1, int(count * self.size))

    def context(self) -> ssl.SSLContext:
        """TLS 1.3 and HTTP/2, with the certificate."""
        context = ssl.create_default_context(cafile=self.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.cert, self.key)
        context.set_alpn_protocols(["h2"])
        return context

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """The same for a gRPC client."""
        root, key, cert = (Path(path).read_bytes() for path in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(root, key, cert)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(path: Path) -> Target:
        raw: dict[str, Any] = json.loads(path.read_text())
        return Target(**raw)
