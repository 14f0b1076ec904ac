"""The agent-side command `stepcred`. Needs the extra [cli]; without it the command says so."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point."""
    if sys.argv[1:2] == ["aws-credential-process"]:  # started for each use of a credential: without what others need
        from stepcred.cli._aws_process._client import fast

        code = fast(sys.argv[2:])
        if code is not None:
            sys.exit(code)
    import signal

    # Until the commands are there, Ctrl-C ends us without a traceback.
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    if on_ctrl_c is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        import rich  # noqa: F401 (only whether it is there)
        import typer  # noqa: F401
    except ModuleNotFoundError as missing:
        if missing.name not in {"rich", "typer"}:
            raise
        from stepcred.cli._exits import UNAVAILABLE

        print("stepcred: the command needs an extra: pip install 'stepcred[cli]'", file=sys.stderr)  # noqa: T201
        sys.exit(UNAVAILABLE)
    _quiet_grpc()
    from stepcred.cli._app import run

    signal.signal(signal.SIGINT, on_ctrl_c)
    sys.exit(run())


def _quiet_grpc() -> None:
    """What gRPC's core writes on stderr about a handshake, our own message says better. The child is not told."""
    if "GRPC_VERBOSITY" not in os.environ:
        os.environ["GRPC_VERBOSITY"] = "NONE"
        import grpc  # noqa: F401 (it reads the variable once, here)

        del os.environ["GRPC_VERBOSITY"]
