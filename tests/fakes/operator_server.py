"""What operators ask, answered over real gRPC with mutual TLS, from whatever lists a test puts there."""

# ruff: noqa: N802 (the methods have the names of the contract)
from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import grpc

from stepcred.v1 import operator_pb2 as pb
from stepcred.v1.operator_pb2_grpc import BrokerOperatorServicer, add_BrokerOperatorServicer_to_server
from tests.fakes.broker_server import Refusal

_Servicer: Any = BrokerOperatorServicer  # what is not here answers UNIMPLEMENTED, whatever the stubs say of abstract


@dataclass
class FakeOperatorService(_Servicer):  # type: ignore[misc]
    """Use in a `with`. Change the lists between two questions; `stop` and `start` keep the port."""

    tls: tuple[Path, Path, Path]  # certificate, key, client CA
    health: pb.GetHealthResponse = field(default_factory=pb.GetHealthResponse)
    steps: list[pb.OperatorStep] = field(default_factory=list)
    leases: list[pb.OperatorLease] = field(default_factory=list)
    keys: list[pb.GuardKey] = field(default_factory=list)
    approvals: list[pb.Approval] = field(default_factory=list)
    freezes: list[pb.FreezeEntry] = field(default_factory=list)
    alerts: list[pb.Alert] = field(default_factory=list)
    now: datetime | None = None  # None: the machine's clock
    page: int = 200  # rows, whatever is asked for
    refusal: Refusal | None = None  # of every call
    calls: list[str] = field(default_factory=list)
    peers: list[bytes] = field(default_factory=list)  # the certificate of each call, PEM
    port: int = 0

    def __post_init__(self) -> None:
        self._gate = threading.Event()
        self._gate.set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        add_BrokerOperatorServicer_to_server(self, self._server)
        certificate, key, client_ca = (path.read_bytes() for path in self.tls)
        credentials = grpc.ssl_server_credentials([(key, certificate)], client_ca, require_client_auth=True)
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        self._server.start()

    def stop(self) -> None:
        self._gate.set()
        self._server.stop(grace=0).wait(timeout=5)

    def hang(self) -> None:
        """Answer nothing until `stop`."""
        self._gate.clear()

    @property
    def addr(self) -> str:
        return f"127.0.0.1:{self.port}"

    def GetHealth(self, _: Any, context: grpc.ServicerContext) -> pb.GetHealthResponse:
        self._called("GetHealth", context)
        told = pb.GetHealthResponse()
        told.CopyFrom(self.health)
        told.server_time.FromDatetime(self.now or datetime.now(UTC))
        return told

    def ListSteps(self, request: pb.ListStepsRequest, context: grpc.ServicerContext) -> pb.ListStepsResponse:
        rows, token = self._paged("ListSteps", self.steps, request, context)
        return pb.ListStepsResponse(steps=rows, next_token=token)

    def ListLeases(self, request: pb.ListLeasesRequest, context: grpc.ServicerContext) -> pb.ListLeasesResponse:
        rows, token = self._paged("ListLeases", self.leases, request, context)
        return pb.ListLeasesResponse(leases=rows, next_token=token)

    def ListGuardKeys(
        self, request: pb.ListGuardKeysRequest, context: grpc.ServicerContext
    ) -> pb.ListGuardKeysResponse:
        keys = [key for key in self.keys if request.open_too or key.state != "OPEN"]
        rows, token = self._paged("ListGuardKeys", keys, request, context)
        return pb.ListGuardKeysResponse(keys=rows, next_token=token)

    def ListApprovals(
        self, request: pb.ListApprovalsRequest, context: grpc.ServicerContext
    ) -> pb.ListApprovalsResponse:
        rows, token = self._paged("ListApprovals", self.approvals, request, context)
        return pb.ListApprovalsResponse(approvals=rows, next_token=token)

    def ListFreezes(self, _: Any, context: grpc.ServicerContext) -> pb.ListFreezesResponse:
        self._called("ListFreezes", context)
        return pb.ListFreezesResponse(freezes=self.freezes)

    def ListAlerts(self, _: Any, context: grpc.ServicerContext) -> pb.ListAlertsResponse:
        self._called("ListAlerts", context)
        return pb.ListAlertsResponse(alerts=self.alerts)

    def _paged(
        self, method: str, rows: Sequence[Any], request: Any, context: grpc.ServicerContext
    ) -> tuple[Sequence[Any], str]:
        self._called(method, context)
        start = int(request.page.token or 0)
        end = start + min(self.page, request.page.size or 200)
        return rows[start:end], str(end) if end < len(rows) else ""

    def _called(self, method: str, context: grpc.ServicerContext) -> None:
        self.calls.append(method)
        self.peers.extend(bytes(pem) for pem in context.auth_context().get("x509_pem_cert", ()))
        self._gate.wait(timeout=30)
        if self.refusal is not None:
            context.set_trailing_metadata(self.refusal.trailers())
            context.abort(self.refusal.code, self.refusal.message)
