"""A real PostgreSQL in a throw-away folder. Passwords count (scram), durability does not (fsync off)."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.support.processes import accepts, free_port, running

MISSING = "no PostgreSQL server on this machine (initdb and postgres on PATH or in /usr/lib/postgresql/*/bin)"


@dataclass(frozen=True, kw_only=True)
class PostgresServer:
    """A running server and its superuser."""

    port: int
    user: str
    password: str = field(repr=False)
    database: str = "postgres"

    def dsn(self, user: str = "", password: str = "") -> str:
        """Connection string, the superuser's unless told otherwise."""
        return (
            f"host=127.0.0.1 port={self.port} dbname={self.database} connect_timeout=5 "
            f"user={user or self.user} password={password or self.password}"
        )

    def logs_in(self, user: str, password: str) -> bool:
        """Can this login be used now?"""
        try:
            psycopg.connect(self.dsn(user, password)).close()
        except psycopg.OperationalError:
            return False
        return True

    def minted_roles(self, of: str = "") -> list[str]:
        """The roles alive that a secrets engine made, which names them `v-<display name>-<role>-…`.

        `of`: for this role only; the engine cuts names at 8 characters.
        """
        pattern = f"v-%-{of}-%" if of else "v-%"
        with psycopg.connect(self.dsn()) as connection:
            rows = connection.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE %s", (pattern,)).fetchall()
        return [row[0] for row in rows]


def find_postgres() -> Path | None:
    """The folder with initdb and postgres, the newest version first; None when there is none."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(re.sub(r"\D", "", path.parent.name) or 0)
    )
    on_path = shutil.which("postgres")
    if on_path:
        found.append(Path(on_path).parent)
    return next((path for path in found if (path / "initdb").exists() and (path / "postgres").exists()), None)


def _server_user() -> str | None:
    """PostgreSQL refuses to run as root: another user then."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextlib.contextmanager
def postgres(binaries: Path, *, port: int = 0) -> Iterator[PostgresServer]:
    """Make a cluster, start it, stop and delete it at the end."""
    port = port or free_port()
    server = PostgresServer(port=port, user="admin", password=secrets.token_hex(16))
    user = _server_user()
    # Not under pytest's tmp_path, whose parents only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="stepcred-pg-"))
    try:
        data, password_file = folder / "data", folder / "password"
        password_file.write_text(server.password)
        if user:
            for path in (folder, password_file):
                shutil.chown(path, user)
        init = [
            str(binaries / "initdb"),
            "-D",
            str(data),
            "-U",
            server.user,
            "--auth=scram-sha-256",
            f"--pwfile={password_file}",
        ]
        init += ["--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run(init, user=user, cwd=folder, check=True, capture_output=True, timeout=60)

        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        argv = [str(binaries / "postgres"), "-D", str(data)]
        argv += [f"--{name}={value}" for name, value in settings.items()]
        with running(
            argv,
            log=folder / "log",
            user=user,
            ready=lambda: accepts(port) and server.logs_in(server.user, server.password),
            stop_signal=signal.SIGINT,  # "fast": do not wait for clients
        ):
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)
