"""A real `stepcred sidecar` at the null broker, for `sidecar.reads`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench.targets import SESSION_SCOPE, Sidecar
from tests.support.daemon import Deployment
from tests.support.processes import free_port, running

COMMAND = str(Path(sys.executable).with_name("stepcred"))


class SidecarPlan:
    """Where it will listen, and how it is started."""

    def __init__(self, broker: Deployment, folder: Path) -> None:
        self._broker = broker
        self._folder = folder
        self._port = free_port()

    @property
    def target(self) -> Sidecar:
        token_file = str(self._folder / "private" / "token")
        return Sidecar(port=self._port, path=f"/v1/aws/{SESSION_SCOPE}", token_file=token_file)

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        """Its pid, from the moment that it has the session in hand until its step is ended."""
        self._folder.mkdir()
        env_file = self._folder / "private" / "env"
        argv = [COMMAND, "sidecar", "--aws", SESSION_SCOPE, "--listen", f"127.0.0.1:{self._port}", "--allow-disk"]
        argv += ["--token-file", self.target.token_file, "--env-file", str(env_file)]
        names = {"STEPCRED_WORKFLOW": "w0", "STEPCRED_RUN": "beside", "STEPCRED_STEP": "load"}
        whose = self._broker.env(self._broker.agent("workflow/w0/step/load"))
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **whose, **names}
        with running(argv, log=self._folder / "sidecar.log", ready=env_file.exists, env=env) as process:
            yield process.pid
