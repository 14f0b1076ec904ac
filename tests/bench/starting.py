"""Several daemons at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tests.support.daemon import Deployment

Name = TypeVar("Name", str, int)


def start(daemons: Mapping[Name, Deployment], stack: contextlib.ExitStack) -> dict[Name, int]:
    """All of them at once, since each takes a second; their pids. They are stopped with the stack."""
    with ThreadPoolExecutor(len(daemons)) as threads:
        processes = threads.map(lambda one: stack.enter_context(one.daemon()), daemons.values())
        return {name: process.pid for name, process in zip(daemons, processes, strict=True)}
