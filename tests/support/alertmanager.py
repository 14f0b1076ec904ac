"""A real Alertmanager (Debian: prometheus-alertmanager) on loopback."""

from __future__ import annotations

import contextlib
import json
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import accepts, free_port, running

BINARY = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
CONFIG = """
route: {{receiver: test, group_by: [alertname], group_wait: 100ms, group_interval: 1s, repeat_interval: 1h}}
receivers:
  - name: test
    webhook_configs: [{{url: "{url}", send_resolved: true}}]
"""


@dataclass(frozen=True)
class Alertmanager:
    """Its address, and its own API."""

    url: str

    def alerts(self) -> list[dict[str, Any]]:
        """Those that are active there."""
        with urllib.request.urlopen(f"{self.url}/api/v2/alerts", timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)
            return found

    def names(self) -> list[str]:
        return sorted(alert["labels"]["alertname"] for alert in self.alerts())


@contextlib.contextmanager
def alertmanager(folder: Path, *, notifies: str, port: int = 0) -> Iterator[Alertmanager]:
    """Started, without a cluster. `notifies`: the URL that its own notifications go to."""
    assert BINARY is not None
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    config = folder / "alertmanager.yml"
    config.write_text(CONFIG.format(url=notifies))
    argv = [
        BINARY,
        f"--config.file={config}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with running(argv, log=folder / "alertmanager.log", ready=lambda: accepts(port)):
        yield Alertmanager(url=f"http://127.0.0.1:{port}")
