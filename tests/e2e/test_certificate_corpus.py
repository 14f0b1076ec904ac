"""The corpus against one daemon over mutual TLS: nobody is served with a bad certificate, everybody with a good one.

At which of the two doors a bad one is refused is part of the corpus: when gRPC's TLS begins to let one through that
it refused, or the other way round, this tells.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stepcred.v1 import broker_pb2 as pb
from tests.e2e.world import LOAD, ROOMY
from tests.support.certs import Creds
from tests.support.corpus import BAD, GOOD, Pki, Shown
from tests.support.daemon import Deployment
from tests.support.h2_client import Answer, connected, context_for, showing
from tests.support.tls13 import TlsRefused

SCOPES = """
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/workflow/{workflow}/step/load", owners: [group:data]}
scopes:
  token: {vault: {role: nobody}, ttl: 10m, tier: low}
grants:
  nightly: {workloads: [load], workflows: [nightly], scopes: [token], max_step: 2h}
"""


@dataclass(frozen=True, kw_only=True)
class Door:
    """A daemon, and all that is shown to it."""

    deployment: Deployment
    root: Path  # of the daemon's own certificate
    shown: dict[str, Shown]

    def whoami(self, case: str) -> Answer:
        """Raises TlsRefused."""
        shown = self.shown[case]
        with showing(self.deployment.grpc_port, shown.chain, shown.key) as connection:
            return connection.call("WhoAmI")


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """All certificates are made before the daemon starts, so that an entry may leave something for it in the `Pki`."""
    folder = tmp_path_factory.mktemp("corpus")
    deployment = without_provider(folder)
    root = folder / "server-root.pem"
    root.write_bytes(deployment.ca.root_pem)
    pki = Pki(deployment.ca)
    shown = {name: make(pki) for name, make in {**{name: bad.make for name, bad in BAD.items()}, **GOOD}.items()}
    deployment.ca.root_path.write_bytes(pki.bundle)
    with deployment.daemon(ready=deployment.alive):
        yield Door(deployment=deployment, root=root, shown=shown)
    log = deployment.log.read_text()
    assert "Traceback" not in log
    assert "unexpected failure" not in log


def without_provider(folder: Path) -> Deployment:
    """Nothing answers where its Vault should be, which no call here needs."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text("none")
    vault = {"address": "http://127.0.0.1:1", "token_file": str(token), "connect_timeout": "1s"}
    return Deployment(folder / "daemon", SCOPES, vault=vault, more=ROOMY)


@pytest.mark.parametrize("case", BAD)
def test_not_served(case: str, door: Door) -> None:
    bad = BAD[case]
    if bad.tls:
        with pytest.raises(TlsRefused):
            door.whoami(case)
        return
    answer = door.whoami(case)
    assert answer.message is None, f"served: {answer.body!r}"
    assert bad.reason is not None
    assert (answer.reason, answer.headers["grpc-status"]) == (bad.reason.value, "16")


@pytest.mark.parametrize("case", GOOD)
def test_served(case: str, door: Door) -> None:
    answer = door.whoami(case)
    assert answer.message is not None, answer.headers
    assert pb.WhoAmIResponse.FromString(answer.message).spiffe_id == door.shown[case].spiffe_id


@pytest.mark.parametrize(
    ("newest", "reason"), [(ssl.TLSVersion.TLSv1_3, ""), (ssl.TLSVersion.TLSv1_2, "CERTIFICATE_INVALID")]
)
def test_only_tls_1_3(newest: ssl.TLSVersion, reason: str, door: Door) -> None:
    issued = door.deployment.agent(LOAD)
    creds = Creds(cert=issued.cert, key=issued.key, ca=door.root)
    with connected(door.deployment.grpc_port, context_for(creds, newest=newest)) as connection:
        answer = connection.call("WhoAmI")
    assert (answer.message is None, answer.reason) == (bool(reason), reason)
