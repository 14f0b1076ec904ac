"""Run something in a network of its own, which it cannot leave and which ends with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence

UNSHARE = ("unshare", "--map-root-user", "--net")


def why_not(*tools: str) -> str:
    """What keeps a network namespace, or one of these tools, from being used here; "" when nothing does."""
    for tool in ("unshare", *tools):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, timeout=10, check=False)
    return "" if done.returncode == 0 else f"no network namespace: {done.stderr.strip()}"


def alone(argv: Sequence[str], *, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Its exit code and output."""
    return subprocess.run([*UNSHARE, *argv], capture_output=True, text=True, timeout=seconds, check=False)


def alone_python(module: str, *args: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """The same for a module of ours."""
    return alone([sys.executable, "-m", module, *args], seconds=seconds)
