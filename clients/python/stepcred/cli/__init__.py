"""The agent-side command `stepcred`. Needs the extra [cli]; without it the command says so."""

from __future__ import annotations

import sys

from stepcred.cli._exits import UNAVAILABLE


def main() -> None:
    """Entry point."""
    try:
        import rich  # noqa: F401 (only whether it is there)
        import typer  # noqa: F401
    except ModuleNotFoundError as missing:
        if missing.name not in {"rich", "typer"}:
            raise
        print("stepcred: the command needs an extra: pip install 'stepcred[cli]'", file=sys.stderr)  # noqa: T201
        sys.exit(UNAVAILABLE)
    from stepcred.cli._app import run

    sys.exit(run())
