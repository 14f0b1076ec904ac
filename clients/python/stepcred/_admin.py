"""What operators ask, on their own listener. Internal: the command is the interface."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import grpc

from stepcred import _settings
from stepcred._errors import OperatorRefused, SettingsError, StepcredError, TlsRefused
from stepcred._settings import Settings
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


def ask(method: str, request: Any, *, environ: Mapping[str, str] = os.environ) -> Any:
    """One call of BrokerOperator. Raises StepcredError."""
    found = settings(environ)
    with grpc.secure_channel(found.addr, channel_credentials(found.source.current()), options=OPTIONS) as channel:
        try:
            return getattr(BrokerOperatorStub(channel), method)(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            raise failed(error, found.addr) from None


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
