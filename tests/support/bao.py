"""A real OpenBao server in dev mode, and what an operator would set up on it for stepcred."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.postgres import PostgresServer
from tests.support.processes import free_port, running, wait_until

TOMB_ROLE = "stepcred-tomb"

STEP_SELF = """
path "auth/token/revoke-self" { capabilities = ["update"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
"""

# One block that also succeeds when the role is gone. OpenBao drops it by itself when its client vanishes while it
# registers the lease, and may keep the lease, which could otherwise never be revoked (measured).
REVOCATION_STATEMENT = """
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{{name}}') THEN
    ALTER ROLE "{{name}}" NOLOGIN;
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';
    REASSIGN OWNED BY "{{name}}" TO CURRENT_USER;
    DROP OWNED BY "{{name}}";
    DROP ROLE "{{name}}";
  END IF;
END $$
"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server said: HTTP status and JSON body ({} when there is none)."""

    status: int
    body: dict[str, Any]

    @property
    def data(self) -> dict[str, Any]:
        value: dict[str, Any] = self.body["data"]
        return value


@dataclass(frozen=True, kw_only=True)
class BaoServer:
    """A running server. `call` speaks to it with the root token unless told otherwise."""

    address: str
    root_token: str = field(repr=False)
    log_path: Path
    ca_file: Path | None = None
    pid: int = 0

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: str | None = None
    ) -> Answer:
        """One request, any status. `path` is without /v1/."""
        request = urllib.request.Request(
            f"{self.address}/v1/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Vault-Token": self.root_token if token is None else token, "Content-Type": "application/json"},
            method=method,
        )
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if self.ca_file:
            handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=self.ca_file)))
        opener = urllib.request.build_opener(*handlers)
        try:
            with opener.open(request, timeout=30) as response:
                status, raw = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, raw = error.code, error.read()
        return Answer(status=status, body=json.loads(raw) if raw.strip() else {})

    def must(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: str | None = None
    ) -> Answer:
        """Like `call`; an answer other than 2xx fails the test."""
        answer = self.call(method, path, body, token=token)
        assert answer.status in (200, 202, 204), f"{method} {path}: {answer}"
        return answer

    def seal(self) -> None:
        """Seal it. A dev server cannot be unsealed here: use a server of the test's own."""
        self.must("PUT", "sys/seal", {})

    def live_tokens(self) -> list[dict[str, Any]]:
        """The look-up data of every token alive now."""
        accessors = self.must("LIST", "auth/token/accessors").data["keys"]
        answers = [self.call("POST", "auth/token/lookup-accessor", {"accessor": accessor}) for accessor in accessors]
        return [answer.data for answer in answers if answer.status == 200]

    def token_of(self, lease_id: str) -> list[dict[str, Any]]:
        """Live tokens whose metadata names this stepcred lease."""
        return [token for token in self.live_tokens() if (token["meta"] or {}).get("lease_id") == lease_id]

    def child_leases(self, prefix: str) -> list[str]:
        """Ids of the leases under a path such as `database/creds/orders-ro`."""
        answer = self.call("LIST", f"sys/leases/lookup/{prefix}")
        return [f"{prefix}/{key}" for key in answer.data["keys"]] if answer.status == 200 else []


def find_bao() -> Path:
    """The server that the development wheel brings, or another version's at STEPCRED_BAO."""
    return Path(os.environ.get("STEPCRED_BAO") or Path(sys.executable).parent / "bao")


@contextlib.contextmanager
def openbao(tmp_path: Path, *, tls: bool = False, port: int = 0, audit_file: Path | None = None) -> Iterator[BaoServer]:
    """Start it in memory, wait until it is healthy, stop it at the end. KV v2 is mounted at `secret/`."""
    port = port or free_port()
    root_token = f"root-{secrets.token_hex(16)}"
    log_path = tmp_path / "bao.log"
    argv: list[str] = [str(find_bao()), "server", "-dev", "-dev-no-store-token"]
    argv += [f"-dev-root-token-id={root_token}", f"-dev-listen-address=127.0.0.1:{port}"]
    ca_file = None
    if tls:
        certificates = tmp_path / "bao-tls"
        certificates.mkdir(exist_ok=True)
        ca_file = certificates / "vault-ca.pem"
        argv += ["-dev-tls", f"-dev-tls-cert-dir={certificates}"]

    if audit_file:
        config = tmp_path / "audit.hcl"  # its API makes none, and its JSON config cannot name one
        config.write_text(
            f'audit "file" "counted" {{\n  options = {{ file_path = {json.dumps(str(audit_file))} }}\n}}\n'
        )
        argv.append(f"-config={config}")

    env = {name: value for name, value in os.environ.items() if not name.startswith(("VAULT_", "BAO_"))}
    env["HOME"] = str(tmp_path)  # it writes a token helper file there
    with running(
        argv, log=log_path, env=env, ready=lambda: "Development mode should" in log_path.read_text()
    ) as process:
        scheme = "https" if tls else "http"
        yield BaoServer(
            address=f"{scheme}://127.0.0.1:{port}",
            root_token=root_token,
            log_path=log_path,
            ca_file=ca_file,
            pid=process.pid,
        )


def minted(audit_file: Path, role: str) -> int:
    """How many tokens of this role the server has ever made, by its own audit log: dead ones too."""
    with audit_file.open() as lines:
        entries = [json.loads(line) for line in lines if f"auth/token/create/{role}" in line]
    return sum(
        entry["type"] == "response"
        and entry["request"]["path"] == f"auth/token/create/{role}"
        and "auth" in entry.get("response", {})
        for entry in entries
    )


@dataclass(frozen=True, kw_only=True)
class TokenRole:
    """One scope's role. `reads` become its policy; `creds` are those of them that are leased."""

    name: str
    reads: Sequence[str] = ()  # paths, for example "secret/data/orders" or "database/creds/orders-ro"
    writes: Sequence[str] = ()  # paths, for example "pki/issue/web"
    max_ttl: str = "1h"

    @property
    def policy(self) -> str:
        lines = [f'path "{path}" {{ capabilities = ["read"] }}' for path in self.reads]
        return "\n".join(lines + [f'path "{path}" {{ capabilities = ["update"] }}' for path in self.writes])

    @property
    def creds(self) -> list[str]:
        leased = [path for path in self.reads if path.split("/")[1] == "creds"]
        return leased + [path for path in self.writes if path.startswith("pki")]


@dataclass(frozen=True, kw_only=True)
class BrokerLogin:
    """How the broker logs in: AppRole id, and the file that holds its secret id."""

    role_id: str
    secret_id_file: Path


def broker_policy(roles: Sequence[TokenRole], broker: str = "stepcred-broker") -> str:
    """Exactly what the broker needs for these roles: it reads no secret and touches no foreign token.

    The policies of roles without leased secrets may be read: their tokens may be handed out themselves.
    """
    lines = [
        f'path "{path}" {{ capabilities = ["update"] }}'
        for path in ("auth/token/lookup", "auth/token/renew-self", "auth/token/revoke-self", "sys/capabilities-self")
    ]
    lines += [
        f'path "auth/token/create/{name}" {{ capabilities = ["update", "sudo"] }}'  # sudo: custom token ids
        for name in [*(role.name for role in roles), TOMB_ROLE]
    ]
    lines += [
        f'path "auth/token/roles/{name}" {{ capabilities = ["read"] }}'  # for `check --live`
        for name in [*(role.name for role in roles), TOMB_ROLE]
    ]
    bare = [role.name for role in roles if not role.creds]
    lines += [f'path "sys/policies/acl/{name}" {{ capabilities = ["read"] }}' for name in ["step-self", *bare, broker]]
    lines.append('path "auth/token/lookup-self" { capabilities = ["read"] }')
    mounts = sorted({path.split("/")[0] for one in roles for path in one.writes if path.startswith("pki")})
    lines += [f'path "{mount}/config/crl" {{ capabilities = ["read"] }}' for mount in mounts]
    engines = sorted(
        {re.sub("(/issuer/[^/]+)?/(issue|sign)/", "/roles/", path) for one in roles for path in one.writes}
    )
    lines += [f'path "{path}" {{ capabilities = ["read"] }}' for path in engines]
    creds = sorted({path for role in roles for path in role.creds})
    if creds:
        lines.append('path "sys/leases/lookup" { capabilities = ["update"] }')
    for path in creds:
        lines.append(f'path "sys/leases/revoke/{path}/*" {{ capabilities = ["update"] }}')
        lines.append(f'path "sys/leases/lookup/{path}/" {{ capabilities = ["list", "sudo"] }}')
    return "\n".join(lines)


def provision(
    bao: BaoServer, folder: Path, roles: Sequence[TokenRole], *, broker: str = "stepcred-broker"
) -> BrokerLogin:
    """Token roles, their policies, the tomb role, and an AppRole login for the broker.

    Called again it replaces the broker's policy: give all roles at once, or another `broker` name.
    """
    bao.must("PUT", "sys/policies/acl/step-self", {"policy": STEP_SELF})
    bao.must(
        "PUT", "sys/policies/acl/stepcred-nothing", {"policy": 'path "stepcred/nothing" { capabilities = ["deny"] }'}
    )
    for role in roles:
        bao.must(
            "PUT",
            f"sys/policies/acl/{role.name}",
            {"policy": role.policy or 'path "stepcred/nothing" { capabilities = ["deny"] }'},
        )
        _token_role(bao, role.name, [role.name, "step-self"], role.max_ttl)
    _token_role(bao, TOMB_ROLE, ["stepcred-nothing"], "24h")

    bao.must("PUT", f"sys/policies/acl/{broker}", {"policy": broker_policy(roles, broker)})
    if "approle/" not in bao.must("GET", "sys/auth").data:
        bao.must("POST", "sys/auth/approle", {"type": "approle"})
    login = {"token_policies": [broker], "token_ttl": "20m", "token_max_ttl": "1h", "token_no_default_policy": True}
    bao.must("POST", f"auth/approle/role/{broker}", login)
    role_id = bao.must("GET", f"auth/approle/role/{broker}/role-id").data["role_id"]
    secret_id_file = folder / f"{broker}.secret-id"
    secret_id_file.touch(mode=0o600)
    secret_id_file.write_text(bao.must("POST", f"auth/approle/role/{broker}/secret-id", {}).data["secret_id"])
    return BrokerLogin(role_id=role_id, secret_id_file=secret_id_file)


def _token_role(bao: BaoServer, name: str, policies: list[str], max_ttl: str) -> None:
    body = {
        "allowed_policies": policies,
        "allowed_policies_glob": [],
        "orphan": True,  # the broker's own token must not take a step's token with it
        "renewable": False,
        "token_explicit_max_ttl": max_ttl,
        "token_no_default_policy": True,
        "token_type": "service",
    }
    bao.must("POST", f"auth/token/roles/{name}", body)


def put_secret(bao: BaoServer, path: str, data: Mapping[str, str], *, mount: str = "secret") -> None:
    """Write KV v2 under `mount`; read it back as `<mount>/data/<path>`."""

    def written() -> bool:
        answer = bao.call("POST", f"{mount}/data/{path}", {"data": dict(data)})
        assert answer.status == 200 or "Upgrading from non-versioned" in str(answer.body), answer
        return answer.status == 200

    wait_until(written, within=30, what="the mount")  # a new one answers so for a moment


def provision_database(
    bao: BaoServer, pg: PostgresServer, role: str, *, creation_delay: float = 0, ttl: str = "1h"
) -> None:
    """Make `database/creds/<role>` give PostgreSQL logins; `creation_delay` seconds pass inside the creation."""
    if "database/" not in bao.must("GET", "sys/mounts").data:
        bao.must("POST", "sys/mounts/database", {"type": "database"})
    connection = connect_database(bao, pg)
    creation = ["CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"]
    if creation_delay:
        creation.append(f"SELECT pg_sleep({creation_delay})")
    body = {
        "db_name": connection,
        "creation_statements": creation,
        "revocation_statements": [REVOCATION_STATEMENT],
        "default_ttl": ttl,
        "max_ttl": ttl,
    }
    bao.must("POST", f"database/roles/{role}", body)


def provision_pki(bao: BaoServer, role: str, *, mount: str = "pki", generate_lease: bool = True) -> None:
    """Make `<mount>/issue/<role>` give certificates of a root of its own."""
    if f"{mount}/" not in bao.must("GET", "sys/mounts").data:
        bao.must("POST", f"sys/mounts/{mount}", {"type": "pki", "config": {"max_lease_ttl": "8760h"}})
        bao.must("POST", f"{mount}/root/generate/internal", {"common_name": f"{mount} root", "key_type": "ec"})
    body = {"allow_any_name": True, "generate_lease": generate_lease, "max_ttl": "1h", "key_type": "ec"}
    bao.must("POST", f"{mount}/roles/{role}", {**body, "key_bits": 256})


def provision_ssh(bao: BaoServer, role: str) -> str:
    """Make `ssh/sign/<role>` sign users' keys; returns the CA's public key."""
    if "ssh/" not in bao.must("GET", "sys/mounts").data:
        bao.must("POST", "sys/mounts/ssh", {"type": "ssh"})
        bao.must("POST", "ssh/config/ca", {"generate_signing_key": True, "key_type": "ssh-ed25519"})
    body = {"key_type": "ca", "allow_user_certificates": True, "allowed_users": "ops", "default_user": "ops"}
    bao.must("POST", f"ssh/roles/{role}", {**body, "max_ttl": "1h"})
    return str(bao.must("GET", "ssh/config/ca").data["public_key"])


def connect_database(bao: BaoServer, pg: PostgresServer, *, port: int = 0, prefix: str = "") -> str:
    """Tell the engine where the database is, and return the connection's name; a dead `port` is a database down."""
    connection = f"{pg.database}-{pg.port}"
    url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{port or pg.port}/{pg.database}?sslmode=disable"
    config = {
        "plugin_name": "postgresql-database-plugin",
        "allowed_roles": "*",
        "connection_url": url,
        "username": pg.user,
        "password": pg.password,
        "max_open_connections": 20,
        "verify_connection": False,
    }
    bao.must("POST", f"{prefix}database/config/{connection}", config)
    return connection
