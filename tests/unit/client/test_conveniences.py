"""`env`, `dsn`, `boto3_session` and `hvac_client` of a step: what they hand on is what is kept at that moment."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import stepcred
from stepcred.v1 import credential_pb2
from tests.fakes.broker_server import DENIED, FakeBroker, aws_session, key_value, login
from tests.unit.client.test_lease_blocks import eventually


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str]) -> None:
    """Every test here has the broker's settings."""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        yield server


class Site(ThreadingHTTPServer):
    """Says yes, and remembers what was sent to it. `redirect`: where it sends its callers instead."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, str]] = []
        self.redirect = ""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.requests.append({name.lower(): value for name, value in self.headers.items()})
        if self.server.redirect:
            self.send_response(307)
            self.send_header("Location", self.server.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = json.dumps({"data": {"keys": ["a"]}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_LIST = do_GET  # noqa: N815 (as the base class looks for them)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def vault_at(address: str) -> Any:
    return lambda lease_id: credential_pb2.Credential(
        vault_token=credential_pb2.VaultToken(token=f"s3cret-{lease_id}", address=address, namespace="team")
    )


# --- env, dsn


def test_a_childs_environment_has_no_rivals(fake: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("STEPCRED_STEP_HANDLE", "h")
    with stepcred.connect() as broker, broker.step(scopes=["lake-write", "orders-db"]) as step:
        child = step.env("lake-write", "orders-db")
        assert (child["AWS_SECRET_ACCESS_KEY"], child["PGPASSWORD"]) == ("s3cret-lease-1", "s3cret-lease-2")
        assert "AWS_PROFILE" not in child
        assert "STEPCRED_STEP_HANDLE" not in child
        assert child["PATH"] == os.environ["PATH"]
        assert set(step.env("orders-db", base={"A": "b"})) == {
            "A",
            "PGHOST",
            "PGPORT",
            "PGDATABASE",
            "PGUSER",
            "PGPASSWORD",
        }
        assert len(fake.requests("IssueCredential")) == 2


def test_what_cannot_be_put_into_one_environment_is_said(fake: FakeBroker) -> None:
    fake.scopes |= {"a": login, "b": login, "kv": key_value({})}
    with stepcred.connect() as broker, broker.step(scopes=["a", "b", "kv"]) as step:
        with pytest.raises(stepcred.StepcredError, match="both set PGPASSWORD"):
            step.env("a", "b")
        with pytest.raises(stepcred.StepcredError, match="kv"):
            step.env("kv")


def test_a_dsn(fake: FakeBroker) -> None:
    with stepcred.connect() as broker, broker.step(scopes=["orders-db", "orders-read"]) as step:
        assert step.dsn("orders-db") == "postgresql://v-step:s3cret-lease-1@db.test:5432/orders"
        assert step.dsn("orders-db", scheme="mysql").startswith("mysql://")
        with pytest.raises(stepcred.StepcredError, match="VaultToken"):
            step.dsn("orders-read")


# --- boto3


def call_aws(session: Any) -> None:
    from botocore.config import Config

    client = session.client("s3", config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}))
    client.head_bucket(Bucket="b")


def sent_by(site: Site) -> str:
    return site.requests[-1]["authorization"].partition("Credential=")[2].partition("/")[0]


def numbered(site: Site) -> Any:
    """Sessions that can be told apart by their access key, at our site."""

    def make(lease_id: str) -> credential_pb2.Credential:
        made = aws_session(lease_id, site.address)
        made.aws_session.access_key_id = f"ASIA-{lease_id}"
        return made

    return make


def test_boto3_signs_with_what_is_kept_at_that_moment(fake: FakeBroker, site: Site) -> None:
    """Sessions shorter than any of botocore's own timeouts: no storm, no failure, and never an old one."""
    fake.scopes["lake-write"] = numbered(site)
    fake.ttl = timedelta(seconds=2)
    with stepcred.connect() as broker, broker.step(scopes=["lake-write"]) as step:
        session = step.boto3_session("lake-write")
        for _ in range(20):
            call_aws(session)
        assert {request["authorization"].partition("/")[0][-12:] for request in site.requests} == {"ASIA-lease-1"}
        assert len(fake.requests("IssueCredential")) == 1
        assert eventually(lambda: step.credential("lake-write").lease.lease_id == "lease-2")
        call_aws(session)
        assert sent_by(site) == "ASIA-lease-2"
        fake.script("IssueCredential", *[DENIED] * 9)
        step.revoke(step.credential("lake-write"))
        for _ in range(5):
            with pytest.raises(stepcred.AccessDenied):
                call_aws(session)
    with pytest.raises(stepcred.StepEnded):
        call_aws(session)


async def test_boto3_in_threads_of_an_asyncio_step(fake: FakeBroker, site: Site) -> None:
    fake.scopes["lake-write"] = numbered(site)
    async with stepcred.aio.connect() as broker, broker.step(scopes=["lake-write", "orders-db"]) as step:
        session = await step.boto3_session("lake-write")
        await asyncio.to_thread(call_aws, session)
        await step.revoke(await step.credential("lake-write"))
        with pytest.raises(stepcred.StepcredError, match="use a thread"):
            call_aws(session)  # only the loop could get a new one, and it waits for us
        await asyncio.to_thread(call_aws, session)
        assert sent_by(site) == "ASIA-lease-2"
        with pytest.raises(stepcred.StepcredError, match="UsernamePassword"):
            await step.boto3_session("orders-db")
    with pytest.raises(stepcred.StepEnded):
        await asyncio.to_thread(call_aws, session)


# --- hvac


def test_hvac_sends_the_token_of_the_moment_and_to_nobody_else(
    fake: FakeBroker, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".vault-token").write_text("of somebody else")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VAULT_TOKEN", "of somebody else")
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    fake.scopes["orders-read"] = vault_at(site.address)
    with stepcred.connect() as broker, broker.step(scopes=["orders-read"]) as step, Site() as elsewhere:
        client = step.hvac_client("orders-read")
        assert client.secrets.kv.v2.list_secrets(path="a")["data"]["keys"] == ["a"]
        assert site.requests[-1]["x-vault-token"] == "s3cret-lease-1"
        assert site.requests[-1]["x-vault-namespace"] == "team"
        step.revoke(step.credential("orders-read"))
        client.secrets.kv.v2.read_secret_version(path="a", raise_on_deleted_version=True)
        assert site.requests[-1]["x-vault-token"] == "s3cret-lease-2"
        site.redirect = elsewhere.address
        with pytest.raises(stepcred.StepcredError, match="redirects"):
            client.read("secret/a")
        assert not elsewhere.requests
        with pytest.raises(stepcred.StepcredError, match="log in"):
            client.token = "other"
    with pytest.raises(stepcred.StepEnded):
        client.read("secret/a")


async def test_hvac_of_an_asyncio_step(fake: FakeBroker, site: Site) -> None:
    fake.scopes |= {"orders-read": vault_at(site.address), "lost": vault_at("")}
    async with stepcred.aio.connect() as broker, broker.step(scopes=["orders-read", "orders-db", "lost"]) as step:
        client = await step.hvac_client("orders-read", timeout=3)
        await asyncio.to_thread(client.read, "secret/a")
        assert site.requests[-1]["x-vault-token"] == "s3cret-lease-1"
        with pytest.raises(stepcred.StepcredError, match="not a UsernamePassword"):
            await step.hvac_client("orders-db")
        with pytest.raises(stepcred.StepcredError, match="no address"):
            await step.hvac_client("lost")
        assert (await step.env("orders-read", base={}))["VAULT_TOKEN"] == "s3cret-lease-1"
        assert (await step.dsn("orders-db")).startswith("postgresql://")


def test_times_of_the_broker_are_never_compared_with_ours(fake: FakeBroker, site: Site) -> None:
    fake.scopes["lake-write"] = numbered(site)
    fake.clock_ahead = timedelta(days=-3)
    with stepcred.connect() as broker, broker.step(scopes=["lake-write"]) as step:
        session = step.boto3_session("lake-write")
        expires = step.credential("lake-write").lease.expires_at
        assert expires is not None
        assert expires < datetime.now(UTC)
        call_aws(session)
        assert len(fake.requests("IssueCredential")) == 1


def test_a_profile_of_somebody_else_steers_nothing(
    fake: FakeBroker, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[profile other]\nendpoint_url = http://127.0.0.1:9\nregion = eu-north-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    fake.scopes["lake-write"] = numbered(site)
    with stepcred.connect() as broker, broker.step(scopes=["lake-write"]) as step:
        for profile in ("other", "nowhere"):
            monkeypatch.setenv("AWS_PROFILE", profile)
            call_aws(step.boto3_session("lake-write"))
            assert sent_by(site) == "ASIA-lease-1"
            own = step.issue("lake-write")
            assert isinstance(own, stepcred.AwsSession)
            session = own.boto3_session()
            assert session.region_name == "eu-west-1"
            call_aws(session)
            assert sent_by(site) == own.access_key_id


def test_what_has_moved_elsewhere_is_not_sent_to_where_it_was(fake: FakeBroker, site: Site) -> None:
    fake.scopes |= {"orders-read": vault_at(site.address), "lake-write": numbered(site)}
    with Site() as elsewhere, stepcred.connect() as broker, broker.step(scopes=["orders-read", "lake-write"]) as step:
        client, session = step.hvac_client("orders-read"), step.boto3_session("lake-write")
        fake.scopes |= {"orders-read": vault_at(elsewhere.address), "lake-write": numbered(elsewhere)}
        for scope in ("orders-read", "lake-write"):
            step.revoke(step.credential(scope))
        with pytest.raises(stepcred.StepcredError, match=r"another Vault by now; take a new hvac_client"):
            client.read("secret/a")
        with pytest.raises(stepcred.StepcredError, match=r"another endpoint by now; take a new boto3_session"):
            call_aws(session)
        assert not site.requests
        step.hvac_client("orders-read").read("secret/a")
        call_aws(step.boto3_session("lake-write"))
        assert len(elsewhere.requests) == 2
