"""The daemon that is attacked, its files on a real disk, and what can be seen of it from outside."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.attack.armed_broker import FILES, MUTANT, SLOW
from tests.bench.setup import NO_VAULT, rss_mb
from tests.support.daemon import Deployment

SCOPE = "plain"
MAP = f"""
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {{id: "spiffe://dev.local/workflow/{{workflow}}/step/load", owners: [group:data]}}
scopes:
  {SCOPE}: {{vault: {{role: plain}}, ttl: 10m, tier: low}}
  {SLOW}: {{vault: {{role: {SLOW}}}, ttl: 10m, tier: low}}
grants:
  all: {{workloads: [load], workflows: ["*"], scopes: [{SCOPE}, {SLOW}], max_step: 2h}}
"""
UNLIMITED = 1_000_000  # of the guard: the limits are those that everybody gets
CONFIG: dict[str, Any] = {
    "guard": {"low": {"budget": UNLIMITED, "hourly": UNLIMITED, "cool_down": "1ms", "max_cool_down": "1ms"}},
    "log": {"level": "info"},
}
WAL = 4_200_000  # bytes that the write-ahead log may have before it is written back: it is used again


@dataclass(frozen=True, kw_only=True)
class Victim:
    """A running daemon."""

    deployment: Deployment
    pid: int

    @property
    def alive(self) -> bool:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    @property
    def memory(self) -> float:
        """MB; 0 when it is dead."""
        try:
            return rss_mb(self.pid)
        except (OSError, LookupError):
            return 0.0

    @property
    def database(self) -> int:
        """Bytes of pages in use, and of a write-ahead log that has outgrown its ordinary size."""
        path = self.deployment.database
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            pages, free, size = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        wal = path.with_name(path.name + "-wal")
        return int((pages - free) * size) + max(0, wal.stat().st_size - WAL if wal.exists() else 0)


@contextlib.contextmanager
def victim(folder: Path, *, mutant: str = "", files: int = 0) -> Iterator[Victim]:
    """From nothing to ready.

    Args:
        folder: for its files; made here.
        mutant: what is missing, if anything.
        files: how many the process may open, if not as many as usual.
    """
    folder.mkdir()
    token = folder / "no-token"
    token.touch(mode=0o600)
    token.write_text("none")
    deployment = Deployment(
        folder / "daemon",
        MAP,
        vault={**NO_VAULT, "token_file": str(token)},
        more=CONFIG,
        module="tests.attack.armed_broker",
    )
    env = {MUTANT: mutant} | ({FILES: str(files)} if files else {})
    with deployment.daemon(env=env) as process:
        yield Victim(deployment=deployment, pid=process.pid)
