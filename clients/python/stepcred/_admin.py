"""What operators ask, on their own listener. Internal: the command is the interface."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import grpc

from stepcred import _settings
from stepcred._errors import OperatorRefused, SettingsError, StepcredError, TlsRefused
from stepcred._settings import Settings
from stepcred._source import Pems
from stepcred._status import call_failed, error_of
from stepcred._transport import OPTIONS, channel_credentials
from stepcred.v1.operator_pb2_grpc import BrokerOperatorStub

PREFIX = "STEPCRED_ADMIN_"
_NAMES = ("ADDR", "CERT", "KEY", "CA")
TIMEOUT = 15.0  # seconds of one call


def settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """STEPCRED_ADMIN_ADDR, _CERT, _KEY and _CA: an operator is never taken for the agent of the same shell.

    Raises SettingsError.
    """
    own = {f"STEPCRED_{name}": environ.get(PREFIX + name, "") for name in _NAMES}
    try:
        return _settings.read(addr=None, cert=None, key=None, ca=None, environ=own)
    except SettingsError as error:
        raise SettingsError([problem.replace("STEPCRED_", PREFIX) for problem in error.problems]) from None


class Office:
    """A connection to BrokerOperator, for as many calls as one likes; made anew when the certificate is another one.

    Nothing is sent twice: what an operator changes is changed once, or somebody is told that it failed.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Raises SettingsError."""
        self._settings = settings(environ)
        self._pems: Pems | None = None
        self._channel: grpc.Channel | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Calls under way end."""
        if self._channel is not None:
            self._channel.close()
        self._channel = None

    def ask(self, method: str, request: Any, *, timeout: float = TIMEOUT) -> Any:
        """One call. Raises StepcredError."""
        try:
            return getattr(self._stub(), method)(request, timeout=timeout)
        except grpc.RpcError as error:
            raise failed(error, self._settings.addr) from None

    def stream(self, method: str, request: Any) -> Iterator[Any]:
        """Every message of one call, for as long as it goes on. Raises StepcredError."""
        call = getattr(self._stub(), method)(request)
        try:
            yield from call
        except grpc.RpcError as error:
            raise failed(error, self._settings.addr) from None
        finally:
            call.cancel()

    def _stub(self) -> Any:
        pems = self._settings.source.current()
        if self._channel is None or pems is not self._pems:
            self.close()
            self._pems = pems
            self._channel = grpc.secure_channel(self._settings.addr, channel_credentials(pems), options=OPTIONS)
        return BrokerOperatorStub(self._channel)


def ask(method: str, request: Any, *, environ: Mapping[str, str] = os.environ) -> Any:
    """One call of BrokerOperator. Raises StepcredError."""
    with Office(environ) as office:
        return office.ask(method, request)


def failed(error: Any, addr: str) -> StepcredError:
    """What an operator sees of a call that failed (a grpc.RpcError, which is a grpc.Call)."""
    return _named_for_operators(
        error_of(call_failed(error.code().name, error.details(), error.trailing_metadata()), addr)
    )


def _named_for_operators(error: StepcredError) -> StepcredError:
    """What it says of settings is about an operator's."""
    if isinstance(error, TlsRefused):
        return OperatorRefused(str(error).replace("STEPCRED_", PREFIX))
    return error
