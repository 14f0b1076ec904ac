"""The agent-side command `stepcred`. Needs the extra [cli]; without it the command says so."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point."""
    try:
        code = _main()
    except KeyboardInterrupt:  # while we are still being loaded: nothing is open
        code = 128 + 2
    sys.exit(code)


def _main() -> int:
    if sys.argv[1:2] == ["aws-credential-process"]:  # started for each use of a credential: without what others need
        from stepcred.cli._aws_process._client import fast

        code = fast(sys.argv[2:])
        if code is not None:
            return code
    try:
        import rich  # noqa: F401 (only whether it is there)
        import typer  # noqa: F401
    except ModuleNotFoundError as missing:
        if missing.name not in {"rich", "typer"}:
            raise
        from stepcred.cli._exits import UNAVAILABLE

        print("stepcred: the command needs an extra: pip install 'stepcred[cli]'", file=sys.stderr)  # noqa: T201
        return UNAVAILABLE
    _quiet_grpc()
    from stepcred.cli._app import run

    return run()


def _quiet_grpc() -> None:
    """What gRPC's core writes on stderr about a handshake, our own message says better. The child is not told."""
    if "GRPC_VERBOSITY" not in os.environ:
        os.environ["GRPC_VERBOSITY"] = "NONE"
        import grpc  # noqa: F401 (it reads the variable once, here)

        del os.environ["GRPC_VERBOSITY"]
