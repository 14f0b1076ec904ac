"""The first chapter: real parts, started from nothing."""

from __future__ import annotations

import contextlib
import importlib.metadata
from pathlib import Path

from tests.demo import site as sites
from tests.demo.commands import run
from tests.demo.people import Operator, make_operators
from tests.demo.screen import Screen, Stopwatch
from tests.demo.site import Site
from tests.demo.stage import Stage
from tests.support.bao import BaoServer, BrokerLogin, openbao
from tests.support.moto import moto_server
from tests.support.receiver import receiving


def set_up(screen: Screen, folder: Path, scope_map: Path, servers: contextlib.ExitStack) -> Stage:
    """Start everything; `servers` stops it again. Raises what a server raises that does not start."""
    screen.chapter("set up: a CA, OpenBao, an AWS emulator, the daemon")
    site = sites.new_site(folder, scope_map)

    watch = Stopwatch()
    made = sites.make_certificates(site)
    failed = next((ran.last for ran in made if ran.code), "")
    screen.check(
        f"stepcred-broker dev-ca: a throw-away CA, {len(made) - 1} certificates",
        not failed,
        seconds=watch.seconds,
        seen=failed,
    )

    operators, public_key = _people(screen, site)
    receiver = servers.enter_context(receiving())

    watch = Stopwatch()
    bao = servers.enter_context(openbao(folder))
    login = sites.provision_bao(bao, site)
    text = f"OpenBao {_version(bao)}: a token role per scope; the broker's own login reads no secret"
    status = _secret_read_by_broker(bao, login)
    screen.check(text, status == 403, seconds=watch.seconds, seen=f"HTTP {status}")

    watch = Stopwatch()
    moto = servers.enter_context(moto_server(folder))
    aws_key = sites.provision_moto(moto)
    sites.write_config(site, bao=bao, login=login, moto=moto, aws_key=aws_key, told=f"{receiver.url}/stepcred")
    text = f"moto {importlib.metadata.version('moto')}: STS, IAM and S3 that check permissions; a role for `load`"
    screen.check(text, held=True, seconds=watch.seconds)

    _check_scope_map(screen, site)
    _check_operators(screen, site)
    watch = Stopwatch()
    servers.enter_context(sites.daemon(site))
    screen.check(f"stepcred-broker serve: ready, mutual TLS on {site.address}", held=True, seconds=watch.seconds)
    ann, bob = operators
    return Stage(
        screen=screen,
        site=site,
        bao=bao,
        moto=moto,
        ann=ann,
        bob=bob,
        receiver=receiver,
        public_key=public_key,
        secrets=[one.secret for one in operators],
    )


def _people(screen: Screen, site: Site) -> tuple[list[Operator], str]:
    """Operators, and the public key that alerts are verified with."""
    watch = Stopwatch()
    operators, ran = make_operators(site)
    made = run("stepcred-broker", "webhook-key", site.webhook_key)
    failed = next((one.last for one in [*ran, made] if one.code), "")
    text = "two operators, ann and bob: a root of their own, second factors sealed"
    screen.check(text, not failed, seconds=watch.seconds, seen=failed)
    return operators, next((line for line in made.lines if line.startswith("whpk_")), "")


def _check_operators(screen: Screen, site: Site) -> None:
    told = run("stepcred-broker", "operators", "check", site.operators_file, "--config", site.config)
    text = "operators.yaml: what each of them may do; " + told.last.rpartition(": ")[2]
    screen.check(text, told.code == 0, seconds=told.seconds)


def _check_scope_map(screen: Screen, site: Site) -> None:
    tests = run("stepcred-broker", "scopes", "test", site.scope_map)
    text = "scopes.yaml: who may have what; its own tests: " + tests.last
    screen.check(text, tests.code == 0, seconds=tests.seconds)


def _version(bao: BaoServer) -> str:
    return str(bao.call("GET", "sys/health").body.get("version", "of unknown version"))


def _secret_read_by_broker(bao: BaoServer, login: BrokerLogin) -> int:
    """HTTP status: the broker mints tokens for others, and must not be a way to the secrets itself."""
    body = {"role_id": login.role_id, "secret_id": login.secret_id_file.read_text()}
    token = bao.must("POST", "auth/approle/login", body).body["auth"]["client_token"]
    status = bao.call("GET", "secret/data/orders", token=token).status
    bao.must("POST", "auth/token/revoke", {"token": token})
    return status
