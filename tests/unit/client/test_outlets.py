"""Formats, templates, environments: what other programs read back is what the credential says."""

from __future__ import annotations

import configparser
import json
import string
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stepcred
from stepcred import _outlets, _wire
from stepcred.v1 import broker_pb2, credential_pb2, lease_pb2
from tests.fakes.broker_server import aws_session, key_value, login, vault_token
from tests.support.examples import examples

X509 = credential_pb2.Credential(
    x509_certificate=credential_pb2.X509Certificate(
        certificate_pem="LEAF", chain_pem=["MIDDLE\n", "ROOT"], private_key_pem="s3cret-key\nsecond line\n"
    )
)
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
LINES = st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"]), min_size=1, max_size=20)


def decoded(message: credential_pb2.Credential, scope: str = "some-scope") -> stepcred.Credential:
    lease = lease_pb2.Lease(lease_id="lease-1", scope=scope)
    return _wire.credential(broker_pb2.IssueCredentialResponse(lease=lease, credential=message))


def logged_in(username: str, password: str, attributes: Mapping[str, str]) -> stepcred.Credential:
    made = credential_pb2.UsernamePassword(username=username, password=password, attributes=attributes)
    return decoded(credential_pb2.Credential(username_password=made))


def kv(**data: str) -> stepcred.Credential:
    return decoded(key_value(data)("lease-1"))


@pytest.mark.parametrize(
    ("message", "what", "rendered"),
    [
        (vault_token("1"), "token", b"s3cret-1"),
        (login("1"), "username", b"v-step"),
        (login("1"), "attributes.host", b"db.test"),
        (aws_session("1"), "access_key_id", b"ASIATEST"),
        (X509, "certificate_pem", b"LEAF"),
        (X509, "chain_pem", b"MIDDLE\nROOT\n"),
        (X509, "fullchain_pem", b"LEAF\nMIDDLE\nROOT\n"),
        (X509, "private_key_pem", b"s3cret-key\nsecond line\n"),
        (key_value({"a b": "s3cret-x"})("1"), "data.a b", b"s3cret-x"),
    ],
)
def test_fields_go_as_they_are(message: credential_pb2.Credential, what: str, rendered: bytes) -> None:
    assert _outlets.render(decoded(message), what) == rendered


@pytest.mark.parametrize(
    "what", ["nonsense", "", "lease", "_seal", "data.nothing", "pgpass", "env\x1b[31m", "CONFLICTS"]
)
def test_what_is_not_there_is_refused_with_what_is(what: str) -> None:
    credential = kv(api_key="s3cret-1", **{"red\x1b": "s3cret-2"})
    with pytest.raises(_outlets.Unusable, match=r"there is data\.api_key") as caught:
        _outlets.render(credential, what)
    assert "s3cret" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@settings(max_examples=examples(10, long=100), deadline=None)  # each starts a shell
@given(values=st.lists(VALUES, min_size=1, max_size=5))
def test_env_is_read_back_by_a_plain_shell(values: list[str]) -> None:
    credential = kv(**{f"key_{number}": value for number, value in enumerate(values)})
    script = 'eval "$(cat)"; for n in ' + " ".join(str(n) for n in range(len(values)))
    script += '; do eval "printf %s. \\"\\$KEY_$n\\""; printf "\\0"; done'
    sourced = _outlets.render(credential, "env")
    read = subprocess.run(["sh", "-c", script], input=sourced, capture_output=True, check=True)
    assert read.stdout == b"".join(value.encode() + b".\0" for value in values)


def as_libpq_reads(line: str) -> list[str]:
    """The fields of a pgpass line, by the rules of its manual: a backslash takes the next sign as it is."""
    fields, signs = [""], iter(line.removesuffix("\n"))
    for sign in signs:
        if sign == ":":
            fields.append("")
        else:
            fields[-1] += next(signs) if sign == "\\" else sign
    return fields


@given(username=LINES, password=LINES, database=LINES)
def test_pgpass_is_one_line_whatever_is_in_the_values(username: str, password: str, database: str) -> None:
    credential = logged_in(username, password, {"host": "::1", "database": database})
    line = _outlets.render(credential, "pgpass").decode()
    assert as_libpq_reads(line) == ["::1", "*", database, username, password]


@given(username=VALUES, password=VALUES, database=VALUES)
def test_a_dsn_is_percent_encoded(username: str, password: str, database: str) -> None:
    where = {"host": "db.test", "port": "5433", "database": database, "sslmode": "verify-full"}
    made = _outlets.dsn(logged_in(username, password, where), scheme="postgresql+psycopg")
    assert set(made) <= set(string.ascii_letters + string.digits + "-._~%:/@?=+")
    url = urlsplit(made)
    assert (url.scheme, url.hostname, url.port, url.query) == (
        "postgresql+psycopg",
        "db.test",
        5433,
        "sslmode=verify-full",
    )
    assert [unquote(part or "") for part in (url.username, url.password, url.path[1:])] == [
        username,
        password,
        database,
    ]


@pytest.mark.parametrize(("host", "shown"), [("::1", "@[::1]"), ("/run/pg", "@%2Frun%2Fpg")])
def test_a_dsn_of_an_unusual_host(host: str, shown: str) -> None:
    assert _outlets.dsn(logged_in("u", "p", {"host": host})).endswith(shown)


def test_a_dsn_without_a_host_would_go_anywhere() -> None:
    with pytest.raises(_outlets.Unusable, match="without a host"):
        _outlets.dsn(logged_in("u", "s3cret", {"database": "d"}))


@pytest.mark.parametrize("what", ["pgpass", "aws"])
def test_a_line_break_does_not_get_into_a_file_of_lines(what: str) -> None:
    forged = "x\n[admin]\nlocalhost:*:*:u:p"
    aws = credential_pb2.AwsSession(access_key_id="A", secret_access_key=forged, session_token="t")
    credential = logged_in("u", forged, {}) if what == "pgpass" else decoded(credential_pb2.Credential(aws_session=aws))
    with pytest.raises(_outlets.Unusable, match="line break"):
        _outlets.render(credential, what)


def test_an_aws_file_has_one_profile() -> None:
    file = configparser.RawConfigParser()
    file.read_string(_outlets.render(decoded(aws_session("1")), "aws").decode())
    assert file.sections() == ["default"]
    assert file["default"]["aws_access_key_id"] == "ASIATEST"
    assert file["default"]["aws_session_token"].startswith("s3cret")


def test_boto3_takes_all_of_it_from_an_aws_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "credentials").write_bytes(_outlets.render(decoded(aws_session("1", "http://127.0.0.1:1")), "aws"))
    for name in _outlets.rivals([decoded(aws_session("1"))]):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    client = boto3.Session().client("s3")
    assert (client.meta.region_name, client.meta.endpoint_url) == ("eu-west-1", "http://127.0.0.1:1")
    found = boto3.Session().get_credentials()
    assert found is not None
    assert (found.access_key, found.token) == ("ASIATEST", "s3cret-session")


def test_json_has_scope_and_fields() -> None:
    shown: dict[str, Any] = json.loads(_outlets.render(kv(a="s3cret"), "json"))
    assert (shown["scope"], shown["data"]) == ("some-scope", {"a": "s3cret"})
    assert "lease" not in shown


@pytest.mark.parametrize(
    "message", [vault_token("1"), login("1"), aws_session("1"), X509, key_value({"a": "s3cret"})("1")]
)
def test_every_secret_of_a_credential_is_known(message: credential_pb2.Credential) -> None:
    secrets = _outlets.secrets_of(decoded(message))
    assert secrets
    assert all("s3cret" in secret for secret in secrets)


def test_a_template_is_filled() -> None:
    issued = {"db": decoded(login("1"), "db"), "vault.x": decoded(vault_token("1"), "vault.x")}
    template = "user=${db:username}\ncost=$$5 $HOME $${db:username}\ntoken: ${vault.x:token}ü"
    filled = _outlets.fill(template, issued).decode()
    assert filled == "user=v-step\ncost=$5 $HOME ${db:username}\ntoken: s3cret-1ü"
    assert _outlets.scopes_of(template) == ["db", "vault.x"]


def test_a_value_is_not_a_template() -> None:
    assert _outlets.fill("${a:data.x}", {"a": kv(x="${a:data.x} $$")}) == b"${a:data.x} $$"


@pytest.mark.parametrize("stray", ["${other:token}", "${a:nothing}", "${a}", "${", "${a:b:c}", "${a:data.x"])
def test_what_cannot_be_filled_is_refused_with_its_line(stray: str) -> None:
    with pytest.raises(_outlets.Unusable, match=r"^line 2: ") as caught:
        _outlets.fill(f"fine ${{a:data.x}}\n{stray}", {"a": kv(x="s3cret")})
    assert "s3cret" not in str(caught.value)


def test_what_would_be_used_instead_is_known() -> None:
    assert "PGSERVICE" in _outlets.rivals([decoded(login("1"))])
    assert _outlets.rivals([], ["PGPASSFILE"]) == {"PGPASSWORD"}
    assert "AWS_SESSION_TOKEN" in _outlets.rivals([], ["AWS_SHARED_CREDENTIALS_FILE"])


@pytest.mark.parametrize("message", [vault_token("1"), login("1"), aws_session("1"), X509, key_value({"a": "x"})("1")])
def test_every_kind_has_something_usual_for_a_file(message: credential_pb2.Credential) -> None:
    credential = decoded(message)
    assert _outlets.render(credential, _outlets.usual(credential))
