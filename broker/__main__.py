"""`stepcred-broker`: arguments → one subcommand → an exit code of sysexits. No traceback but in the log."""

from __future__ import annotations

import errno
import os
import secrets
import sys
from collections.abc import Sequence

import structlog
import typer

from broker import log
from broker.cli.options import note_arguments, tell, tell_wrong_arguments
from broker.cli.root import build
from broker.errors import ConfigError, NoIdentity, StoreError
from broker.policy.problems import ScopeMapError

_TYPER_USAGE = 2  # what typer exits with on wrong arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    64 usage, 69 unavailable (database, address, SPIFFE agent), 70 a mistake of ours, 78 config; 1 for "looked, and found something".
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    note_arguments(given)
    try:
        typer.main.get_command(build(given)).main(given, prog_name="stepcred-broker")
    except SystemExit as stop:
        return _exit_code(stop)
    except Exception as error:  # noqa: BLE001 - the edge: what nobody expected goes to the log, not to the terminal
        code, problems = _explain(error)
        tell(code, *problems)
        return code
    return os.EX_OK


def _exit_code(stop: SystemExit) -> int:
    if stop.code == _TYPER_USAGE:
        tell_wrong_arguments()
        return os.EX_USAGE
    return stop.code if isinstance(stop.code, int) else os.EX_OK


def _explain(error: Exception) -> tuple[int, list[str]]:
    match error:
        case ConfigError() | ScopeMapError():
            return os.EX_CONFIG, [str(problem) for problem in error.problems]
        case StoreError() | NoIdentity():
            return os.EX_UNAVAILABLE, [str(error)]
        case OSError(errno=errno.EADDRINUSE | errno.EADDRNOTAVAIL):
            return os.EX_UNAVAILABLE, [f"cannot listen: {error.strerror}"]
        case _:
            return os.EX_SOFTWARE, [f"internal error, reference {_log_unexpected()}; the log tells more"]


def _log_unexpected() -> str:
    """Log the exception under way; the traceback goes nowhere else. Returns what to look for in the log."""
    if not structlog.is_configured():
        log.configure("error", "console")
    reference = secrets.token_hex(4)
    log.get_logger(__name__).exception("unexpected error", reference=reference)
    return reference


if __name__ == "__main__":
    sys.exit(main())
