"""The SPIFFE Workload API, where the identity comes from it: can its socket be asked? What it gives, the broker judges."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator
from shlex import quote

from stepcred.cli._doctor._finding import Case, Finding, ok, plain, problem

SOCKET = "SPIFFE_ENDPOINT_SOCKET"
_TIMEOUT = 5.0  # seconds
_EXAMPLE = f"export {SOCKET}=unix:///run/spire/sockets/agent.sock"


def look(case: Case) -> Iterator[Finding]:
    """Fills `workload_api`."""
    case.workload_api = True
    value = case.environ[SOCKET]
    path = value.removeprefix("unix:").replace("//", "", 1) if value.startswith("unix:///") else value[len("unix:") :]
    if not value.startswith("unix:/") or value != value.strip():
        yield problem(f"{SOCKET} must be unix:///path/of/the/socket, not {plain(value)}", _EXAMPLE)
        return
    if importlib.util.find_spec("spiffe") is None:
        yield problem(f"{SOCKET} needs a package that is not installed", "pip install 'stepcred[spiffe]'")
    try:
        with socket.socket(socket.AF_UNIX) as trial:
            trial.settimeout(_TIMEOUT)
            trial.connect(path)
    except FileNotFoundError:
        yield problem(
            f"{SOCKET}: {plain(path)} does not exist", "systemctl status spire-agent; is the socket mounted here?"
        )
    except PermissionError:
        yield problem(f"{SOCKET}: {plain(path)} may not be used by this user", f"ls -l {quote(path)}")
    except OSError as error:
        yield problem(
            f"{SOCKET}: nobody answers at {plain(path)} ({error.strerror or error})", "systemctl status spire-agent"
        )
    else:
        yield ok(f"identity from the Workload API at {plain(path)}")
