"""The command `stepcred-broker`: it comes with the library, and without the daemon's extra it says what to install."""

from __future__ import annotations

import os
import sys

_OURS = frozenset({"broker", "stepcred"})


def main() -> int:
    """Run one command and return its exit code; 69 without the extra [broker]."""
    try:
        from broker.__main__ import main as run
    except ModuleNotFoundError as missing:
        name = (missing.name or "").partition(".")[0]
        if name in _OURS:
            raise
        print(  # noqa: T201
            f"stepcred-broker: the daemon needs an extra: pip install 'stepcred[broker]' ({name} is missing)",
            file=sys.stderr,
        )
        return os.EX_UNAVAILABLE
    return run()
