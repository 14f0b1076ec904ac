"""Credentials: variables, redaction, boto3."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import pickle
import pprint
import subprocess
import sys
import traceback
from datetime import UTC, datetime, timedelta
from typing import Any

import pydantic
import pytest
import rich.console

import stepcred
from stepcred import _wire
from stepcred._models import summary
from stepcred.v1 import broker_pb2, credential_pb2, lease_pb2
from tests.fakes.broker_server import aws_session, key_value, login, vault_token

X509 = credential_pb2.Credential(
    x509_certificate=credential_pb2.X509Certificate(certificate_pem="PEM", private_key_pem="s3cret-key")
)
SSH = credential_pb2.Credential(ssh_certificate=credential_pb2.SshCertificate(signed_key="ssh-cert"))
JWT = credential_pb2.Credential(jwt=credential_pb2.Jwt(token="s3cret-jwt", audience="a"))
KV = key_value({"api_key": "s3cret-kv"})("lease-1")
EVERY = [vault_token("1"), login("1"), aws_session("1"), X509, SSH, JWT, KV]


def _decode(credential: credential_pb2.Credential) -> stepcred.Credential:
    lease = lease_pb2.Lease(lease_id="lease-1", scope="some-scope")
    return _wire.credential(broker_pb2.IssueCredentialResponse(lease=lease, credential=credential))


@pytest.mark.parametrize("message", EVERY, ids=lambda message: message.WhichOneof("kind"))
def test_i6_no_secret_in_repr_and_none_in_pickles_or_copies(message: credential_pb2.Credential) -> None:
    credential = _decode(message)
    for text in (repr(credential), str(credential), f"{credential}", repr([credential])):
        assert "s3cret" not in text
    assert "lease-1" in repr(credential)
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            duplicate(credential)


@pytest.mark.parametrize("message", EVERY, ids=lambda message: message.WhichOneof("kind"))
def test_i6_a_credential_is_not_turned_into_something_that_shows_it(message: credential_pb2.Credential) -> None:
    credential = _decode(message)
    for dissolve in (dataclasses.asdict, dataclasses.astuple, json.dumps, vars, pydantic.TypeAdapter):
        argument: Any = type(credential) if dissolve is pydantic.TypeAdapter else credential
        with pytest.raises((TypeError, pydantic.errors.PydanticSchemaGenerationError)) as caught:
            dissolve(argument)
        assert "s3cret" not in str(caught.value)
    out = io.StringIO()
    rich.console.Console(file=out, width=200).print(credential)

    def fail(held: stepcred.Credential) -> None:
        raise RuntimeError(held)

    try:
        fail(credential)
    except RuntimeError as error:
        frames = error.__traceback__.tb_next if error.__traceback__ else None  # this frame's locals hold the message
        found = traceback.TracebackException(type(error), error, frames, capture_locals=True)
    shown = "".join(found.format()) + json.dumps(credential, default=str) + pprint.pformat([credential])
    shown += out.getvalue()
    assert "some-scope" in shown
    assert "s3cret" not in shown


def test_a_changed_copy_of_a_credential_holds_the_same() -> None:
    credential = _decode(vault_token("1"))
    assert isinstance(credential, stepcred.VaultToken)
    assert dataclasses.replace(credential, address="https://other").token == credential.token


def test_variables_of_a_vault_token() -> None:
    assert _decode(vault_token("1")).env() == {
        "VAULT_TOKEN": "s3cret-1",
        "BAO_TOKEN": "s3cret-1",
        "VAULT_ADDR": "https://vault.test:8200",
        "BAO_ADDR": "https://vault.test:8200",
    }


def test_variables_of_an_aws_session() -> None:
    assert _decode(aws_session("1")).env() == {
        "AWS_ACCESS_KEY_ID": "ASIATEST",
        "AWS_SECRET_ACCESS_KEY": "s3cret-1",
        "AWS_SESSION_TOKEN": "s3cret-session",
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }
    assert _decode(aws_session("1", "http://s3.test")).env()["AWS_ENDPOINT_URL"] == "http://s3.test"


def test_variables_of_a_login() -> None:
    assert _decode(login("1")).env() == {
        "PGUSER": "v-step",
        "PGPASSWORD": "s3cret-1",
        "PGHOST": "db.test",
        "PGPORT": "5432",
        "PGDATABASE": "orders",
    }


def test_stored_values_become_only_harmless_variables() -> None:
    data = {"api_key": "1", "LDAP_PASSWORD": "2", "db-password": "3", "9lives": "4", "clé": "5"}
    steering = ["path", "LD_PRELOAD", "BASH_ENV", "PYTHONPATH", "NODE_OPTIONS", "JAVA_TOOL_OPTIONS", "STEPCRED_ADDR"]
    steering += ["HOME", "GIT_SSH_COMMAND", "GCONV_PATH", "PS4", "pager"]
    credential = _decode(key_value({**data, **dict.fromkeys(steering, "evil")})("1"))
    assert credential.env() == {"API_KEY": "1", "LDAP_PASSWORD": "2"}


def test_keys_that_differ_only_in_case_are_ambiguous() -> None:
    with pytest.raises(ValueError, match="differ only in case"):
        _decode(key_value({"a": "1", "A": "2"})("1")).env()


def test_an_unknown_kind_is_an_error_and_no_empty_credential() -> None:
    with pytest.raises(stepcred.UnexpectedAnswer):
        _decode(credential_pb2.Credential())


def test_words_of_a_newer_broker_are_unspecified() -> None:
    lease = lease_pb2.Lease(lease_id="1")
    lease.ParseFromString(lease.SerializeToString() + b"\x18\x63")  # tier = 99
    assert _wire.lease(lease).tier is stepcred.Tier.UNSPECIFIED


def test_boto3_session_carries_the_credential_to_its_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    credential = _decode(aws_session("1", "http://s3.test"))
    assert isinstance(credential, stepcred.AwsSession)
    session = credential.boto3_session()
    found = session.get_credentials()
    assert found is not None
    assert (found.access_key, found.secret_key, found.token) == ("ASIATEST", "s3cret-1", "s3cret-session")
    assert session.client("s3").meta.endpoint_url == "http://s3.test"
    assert session.client("sts").meta.endpoint_url == "http://s3.test"
    assert session.resource("s3").meta.client.meta.endpoint_url == "http://s3.test"
    assert session.client("s3", endpoint_url="http://mine.test").meta.endpoint_url == "http://mine.test"


def test_without_boto3_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    credential = _decode(aws_session("1"))
    assert isinstance(credential, stepcred.AwsSession)
    with pytest.raises(stepcred.StepcredError, match="pip install boto3"):
        credential.boto3_session()


def test_importing_stepcred_is_lean() -> None:
    program = (
        "import sys, stepcred; "
        "print([m for m in ('grpc', 'google.protobuf', 'stepcred.v1', 'boto3', 'typer', 'rich', 'broker') "
        "if m in sys.modules]); "
        "stepcred.connect, stepcred.aio, stepcred.Broker; "
        "print([m for m in ('boto3', 'typer', 'rich', 'broker', 'cryptography') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.split() == ["[]", "[]"]


def _outcome(
    state: str = "REVOKED",
    evidence: str = "SEEN_DEAD",
    ms: float | None = 41.0,
    until: datetime | None = None,
    denied_at: datetime | None = None,
) -> stepcred.LeaseOutcome:
    return stepcred.LeaseOutcome(
        lease_id="l",
        scope="s",
        state=stepcred.LeaseState[state],
        revocability=stepcred.Revocability.EXACT,
        evidence=stepcred.Evidence[evidence],
        time_to_dead=None if ms is None else timedelta(milliseconds=ms),
        exposed_until=until,
        deny_written_at=denied_at,
    )


NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
IN_5_MIN = NOON + timedelta(minutes=5)


@pytest.mark.parametrize(
    ("outcomes", "line"),
    [
        ([], "no credential was issued"),
        ([_outcome()], "1 credential dead, proven in 41 ms"),
        ([_outcome(ms=1), _outcome()], "2 credentials dead, proven in 41 ms"),
        ([_outcome(ms=1234)], "1 credential dead, proven in 1.2 s"),
        ([_outcome(ms=0.2)], "1 credential dead, proven in under 1 ms"),
        ([_outcome("EXPIRED", "EXPIRED", None)], "1 credential dead, proven"),
        ([_outcome("REVOKING", "UNSPECIFIED", None, IN_5_MIN)], "1 exposed until 12:05Z"),
        (
            [
                _outcome("REVOKING", "UNSPECIFIED", None, IN_5_MIN, NOON),
                _outcome("REVOKING", "UNSPECIFIED", None, NOON),
            ],
            "1 denied, exposed until 12:05Z at most; 1 exposed until 12:00Z",
        ),
        ([_outcome("REVOKED", "PROBE_DENIED", 16_000, None, NOON)], "1 credential dead, proven in 16.0 s"),
        ([_outcome("REVOKING", "UNSPECIFIED", None)], "1 not proven dead"),
        ([_outcome("VOID", "NOT_MINTED", None)], "no credential was issued"),
        ([_outcome("REVOKED", "ACCESS_ENDED", 3)], "1 static, no longer served (the value lives on)"),
        (
            [_outcome(), _outcome("REVOKING", "UNSPECIFIED", None, IN_5_MIN)],
            "1 credential dead, proven in 41 ms; 1 exposed until 12:05Z",
        ),
    ],
)
def test_the_last_line(outcomes: list[stepcred.LeaseOutcome], line: str) -> None:
    assert summary(outcomes, now=NOON) == line


def test_a_bound_on_another_day_names_the_day() -> None:
    line = summary([_outcome("REVOKING", "UNSPECIFIED", None, NOON + timedelta(days=3))], now=NOON)
    assert line == "1 exposed until 2026-11-25 12:00Z"
