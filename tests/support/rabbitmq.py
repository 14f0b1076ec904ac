"""A real RabbitMQ in a throw-away folder: one node on loopback, with its management API."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from tests.support.processes import free_port, running

MISSING = "no RabbitMQ server on this machine (Debian: rabbitmq-server)"


@dataclass(frozen=True, kw_only=True)
class RabbitServer:
    """A running node; `guest` is its administrator."""

    management: str

    def status(self, path: str, user: str = "guest", password: str = "guest") -> int:
        """What the API answers to this login; 0 while nobody listens."""
        request = urllib.request.Request(f"{self.management}/api/{path}")
        request.add_header("Authorization", f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except OSError:
            return 0

    def users(self) -> list[str]:
        request = urllib.request.Request(f"{self.management}/api/users")
        request.add_header("Authorization", f"Basic {base64.b64encode(b'guest:guest').decode()}")
        with urllib.request.urlopen(request, timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return [user["name"] for user in found]


def find_rabbitmq() -> Path | None:
    """Its `sbin` folder, from Debian's package; None when there is none."""
    root = Path(os.environ.get("STEPCRED_TEST_RABBITMQ_ROOT", "/"))  # the package's files, unpacked elsewhere
    return next(iter(sorted((root / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"))), None)


def _environment(sbin: Path, folder: Path, ports: Mapping[str, int]) -> dict[str, str]:
    erlang = sbin.parents[3] / "erlang"
    (folder / "plugins").write_text("[rabbitmq_management].\n")
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{ports['amqp']}\n"
        f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {ports['management']}\n"
    )
    return {
        "PATH": f"{erlang}/bin:{os.environ['PATH']}",
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(ports["epmd"]),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": "stepcred@localhost",
        "RABBITMQ_DIST_PORT": str(ports["distribution"]),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
    }


@contextlib.contextmanager
def rabbitmq(sbin: Path) -> Iterator[RabbitServer]:
    """Start it, stop it, and the name server that it started, at the end."""
    folder = Path(tempfile.mkdtemp(prefix="stepcred-mq-"))
    ports = {name: free_port() for name in ("amqp", "management", "epmd", "distribution")}
    env = _environment(sbin, folder, ports)
    server = RabbitServer(management=f"http://127.0.0.1:{ports['management']}")
    try:
        with running(
            [str(sbin / "rabbitmq-server")],
            log=folder / "server.log",
            env=env,
            ready=lambda: server.status("overview") == 200,
            within=90,
        ):
            yield server
    finally:
        subprocess.run(["epmd", "-kill"], env=env, capture_output=True, timeout=10, check=False)
        shutil.rmtree(folder, ignore_errors=True)
