"""The corpus against one daemon over mutual TLS: nobody is served with a bad certificate, everybody with a good one.

At which of the two doors a bad one is refused is part of the corpus: when gRPC's TLS begins to let one through that
it refused, or the other way round, this tells.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from stepcred.v1 import broker_pb2 as pb
from stepcred.v1 import operator_pb2
from tests.e2e.world import LOAD, ROOMY
from tests.support.corpus import BAD, GOOD, Pki, Shown, furnish, made
from tests.support.corpus.case import Door
from tests.support.daemon import Deployment, without_provider
from tests.support.h2_client import Answer, connected, context_for, showing
from tests.support.processes import free_port
from tests.support.tls13 import TlsRefused

CALLS: dict[Door, tuple[str, str, Any]] = {
    Door.AGENTS: ("stepcred.v1.CredentialBroker", "WhoAmI", pb.WhoAmIResponse),
    Door.OPERATORS: ("stepcred.v1.BrokerOperator", "GetOperator", operator_pb2.GetOperatorResponse),
}


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A daemon, and all that is shown to it."""

    deployment: Deployment
    operators_port: int
    shown: dict[str, Shown]

    def whoami(self, case: str) -> Answer:
        """Raises TlsRefused."""
        one = self.shown[case]
        port = self.deployment.grpc_port if one.door is Door.AGENTS else self.operators_port
        service, method, _ = CALLS[one.door]
        with showing(port, one.chain, one.key) as connection:
            return connection.call(method, service=service)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("corpus")
    deployment, operators_port = without_provider(folder), free_port()
    pki = Pki(deployment.ca)
    shown = made(pki)
    own = {"cert_file": str(deployment.server_cert), "key_file": str(deployment.server_key)}
    deployment.more = {**ROOMY, **furnish(pki, folder).sections(own, f"127.0.0.1:{operators_port}")}
    deployment.write_config()
    with deployment.daemon(ready=deployment.alive):
        yield Shop(deployment=deployment, operators_port=operators_port, shown=shown)
    log = deployment.log.read_text()
    assert "Traceback" not in log
    assert "unexpected failure" not in log


@pytest.mark.parametrize("case", BAD)
def test_not_served(case: str, shop: Shop) -> None:
    bad = BAD[case]
    if bad.tls:
        with pytest.raises(TlsRefused):
            shop.whoami(case)
        return
    answer = shop.whoami(case)
    assert answer.message is None, f"served: {answer.body!r}"
    assert bad.reason is not None
    assert (answer.reason, answer.headers["grpc-status"]) == (bad.reason.value, "16")


@pytest.mark.parametrize("case", GOOD)
def test_served(case: str, shop: Shop) -> None:
    answer, one = shop.whoami(case), shop.shown[case]
    assert answer.message is not None, answer.headers
    _, _, response = CALLS[one.door]
    assert response.FromString(answer.message).spiffe_id == one.spiffe_id


@pytest.mark.parametrize(
    ("newest", "reason"), [(ssl.TLSVersion.TLSv1_3, ""), (ssl.TLSVersion.TLSv1_2, "CERTIFICATE_INVALID")]
)
def test_only_tls_1_3(newest: ssl.TLSVersion, reason: str, shop: Shop) -> None:
    context = context_for(shop.deployment.agent(LOAD), newest=newest)
    with connected(shop.deployment.grpc_port, context) as connection:
        answer = connection.call("WhoAmI")
    assert (answer.message is None, answer.reason) == (bool(reason), reason)


def test_a_ticket_of_the_agents_door_opens_no_other(shop: Shop) -> None:
    context = context_for(shop.deployment.agent(LOAD))
    with connected(shop.deployment.grpc_port, context) as connection:
        assert connection.call("WhoAmI").message is not None
        ticket = connection.session
    service, method, _ = CALLS[Door.OPERATORS]
    with pytest.raises(TlsRefused), connected(shop.operators_port, context, ticket) as connection:
        connection.call(method, service=service)
