"""Everything that the demo runs on: certificates, OpenBao, moto, the daemon; all in one temporary folder."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from broker.store.base import tail
from broker.store.sqlite import open_readonly
from tests.demo.commands import BIN, Ran, clean_environment, run
from tests.support.bao import BaoServer, BrokerLogin, TokenRole, provision, put_secret
from tests.support.daemon import toml, vault_section
from tests.support.moto import MotoServer
from tests.support.processes import free_port, running

TRUST_DOMAIN = "demo.local"
WORKFLOW = "nightly-etl"
BUCKET = "lake"
STEPS = ("extract", "load", "report", "payout", "repair")
STEP_PROGRAMS = Path(__file__).parent / "steps"

TOKEN_ROLES = [
    TokenRole(name="orders-read", reads=["secret/data/orders"]),
    TokenRole(name="prices-read", reads=["secret/data/prices"]),
    TokenRole(name="payments-release", reads=["secret/data/payments"]),
    TokenRole(name="orders-admin", reads=["secret/data/orders", "secret/metadata/orders"]),
]
# What the broker's own AWS user may do: open sessions of the role, and deny them again.
BROKER_USER = {
    "Effect": "Allow",
    "Action": ["sts:AssumeRole", "iam:GetRole", "iam:*RolePolicy", "iam:ListRolePolicies"],
    "Resource": "*",
}
LOAD_ROLE = {"Effect": "Allow", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{BUCKET}/*"}


@dataclass(frozen=True, kw_only=True)
class Site:
    """Paths and addresses; the daemon need not run yet."""

    folder: Path
    grpc_port: int
    http_port: int
    operators_port: int

    @property
    def ca(self) -> Path:
        return self.folder / "ca"

    @property
    def scope_map(self) -> Path:
        return self.folder / "scopes.yaml"

    @property
    def database(self) -> Path:
        return self.folder / "broker.db"

    @property
    def config(self) -> Path:
        return self.folder / "broker.toml"

    @property
    def operators_file(self) -> Path:
        return self.folder / "operators.yaml"

    @property
    def second_factor_key(self) -> Path:
        return self.folder / "second-factors.key"

    @property
    def webhook_key(self) -> Path:
        return self.folder / "webhook.key"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def certificate(self, step: str) -> Ran:
        """A new certificate for a step, through the real command."""
        return run(
            "stepcred-broker", "dev-ca", "issue", "--dir", self.ca, "--id", spiffe_id(step), "--out", self.ca / step
        )

    def environment(self, step: str, run_id: str) -> dict[str, str]:
        """What a scheduler gives to a step's process."""
        return {
            "STEPCRED_ADDR": self.address,
            "STEPCRED_CERT": str(self.ca / f"{step}.pem"),
            "STEPCRED_KEY": str(self.ca / f"{step}-key.pem"),
            "STEPCRED_CA": str(self.ca / "ca.pem"),
            "STEPCRED_WORKFLOW": WORKFLOW,
            "STEPCRED_RUN": run_id,
            "STEPCRED_STEP": step,
        }

    def admin_environment(self, operator: str) -> dict[str, str]:
        """What an operator has in its shell."""
        return {
            "STEPCRED_ADMIN_ADDR": f"127.0.0.1:{self.operators_port}",
            "STEPCRED_ADMIN_CERT": str(self.ca / f"{operator}.pem"),
            "STEPCRED_ADMIN_KEY": str(self.ca / f"{operator}-key.pem"),
            "STEPCRED_ADMIN_CA": str(self.ca / "ca.pem"),
        }

    def journal(self) -> list[dict[str, Any]]:
        """Every record so far, read beside the daemon."""
        with open_readonly(self.database) as store:
            return store.read(lambda tx: [json.loads(entry.body) for entry in tail(tx)])

    def ready(self) -> bool:
        """Does the daemon say that it is ready to serve?"""
        try:
            with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{self.http_port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except URLError:
            return False


def new_site(folder: Path, scope_map: Path) -> Site:
    """A folder with a copy of the scope map, for whoever wants to change it."""
    site = Site(folder=folder, grpc_port=free_port(), http_port=free_port(), operators_port=free_port())
    site.scope_map.write_text(scope_map.read_text())
    return site


def spiffe_id(step: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/workflow/{WORKFLOW}/step/{step}"


def make_certificates(site: Site) -> list[Ran]:
    """The CA, the daemon's certificate, and one for each step; stops at the first that fails."""
    ran = [run("stepcred-broker", "dev-ca", "init", "--dir", site.ca, "--trust-domain", TRUST_DOMAIN)]
    if not ran[-1].code:
        ran.append(run("stepcred-broker", "dev-ca", "issue", "--dir", site.ca, "--server", "127.0.0.1"))
    return ran + [site.certificate(step) for step in STEPS]


def provision_bao(bao: BaoServer, site: Site) -> BrokerLogin:
    """What an operator sets up once: secrets, a token role per scope, the broker's own narrow login."""
    put_secret(bao, "orders", {"user": "etl", "password": "not-for-the-screen"})
    put_secret(bao, "prices", {"eur": "1.00"})
    put_secret(bao, "payments", {"account": "payroll"})
    return provision(bao, site.folder, TOKEN_ROLES)


def provision_moto(moto: MotoServer) -> tuple[str, str]:
    """Bucket, the one role of step `load`, and the broker's own user: (access key id, secret access key)."""
    moto.create_bucket(BUCKET)
    moto.create_role("nightly-etl-load", permissions=LOAD_ROLE)
    return moto.create_user("stepcred-broker", BROKER_USER)


def write_config(
    site: Site, *, bao: BaoServer, login: BrokerLogin, moto: MotoServer, aws_key: tuple[str, str], told: str
) -> None:
    """The daemon's settings; secrets are files of their own. `told`: where alerts go."""
    aws_secret = site.folder / "aws.secret"
    aws_secret.touch(mode=0o600)
    aws_secret.write_text(aws_key[1])
    tls = {"cert_file": "ca/server.pem", "key_file": "ca/server-key.pem", "client_ca_file": "ca/ca.pem"}
    site.config.write_text(
        toml(
            {
                "environment": "dev",
                "trust_domain": TRUST_DOMAIN,
                "listen": {"grpc": site.address, "http": f"127.0.0.1:{site.http_port}"},
                "tls": tls,
                "operators": {
                    "client_ca_file": "ca/operator-ca.pem",
                    "listen": f"127.0.0.1:{site.operators_port}",
                    "file": site.operators_file.name,
                    "second_factor_key_file": site.second_factor_key.name,
                },
                "webhooks": {"key_file": site.webhook_key.name},
                "alerts": {"webhook": {"demo": {"url": told}}},
                "store": {"path": site.database.name, "mint_key_file": "mint.key"},
                "scopes": {"file": site.scope_map.name},
                "vault": vault_section(bao, login),
                "aws": {
                    "region": moto.region,
                    "endpoint_url": moto.url,
                    "access_key_id": aws_key[0],
                    "secret_access_key_file": aws_secret.name,
                },
                "timings": {"drain_grace": "5s"},
            }
        )
    )


@contextmanager
def daemon(site: Site) -> Iterator[int]:
    """`stepcred-broker serve` from ready to stopped; its pid."""
    argv: list[str | Path] = [BIN / "stepcred-broker", "serve", "--config", site.config]
    log = site.folder / "broker.log"
    with running(argv, log=log, ready=site.ready, env=clean_environment(), stop_signal=signal.SIGTERM) as process:
        yield process.pid


def step_program(step: str) -> list[str | Path]:
    return [sys.executable, STEP_PROGRAMS / f"{step}.py"]
