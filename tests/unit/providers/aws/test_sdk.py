"""Where requests go, and as whom: without a network."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.clock import SystemClock
from broker.providers.aws import calls
from broker.providers.aws.calls import Clients, Failure, Hub
from broker.providers.aws.settings import AwsSettings
from broker.providers.heard import HeardTime
from tests.unit.providers.aws import elsewhere

SECRET = "throwAwaySecretKeyOfTheBroker"


@pytest.fixture
def stray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Variables and files of the SDK's that say otherwise."""
    for name, value in elsewhere.VARIABLES.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "config"
    file.write_text("[default]\nendpoint_url = http://127.0.0.1:3\nsts_regional_endpoints = legacy\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))


def clients(folder: Path, **changes: Any) -> Clients:
    key = folder / "aws.key"
    key.write_text(SECRET + "\n")
    given: dict[str, Any] = {
        "installation": "0123abcd4567",
        "sts_region": "eu-west-1",
        "access_key_id": "AKIAEXAMPLE",
        "secret_access_key_file": key,
        "connect_timeout": timedelta(milliseconds=200),
        "read_timeout": timedelta(milliseconds=200),
    }
    clock = SystemClock()
    return Clients(AwsSettings(**(given | changes)), HeardTime(clock), clock)


def client(of: Clients, service: str, region: str, endpoint: str = "", *, fips: bool = False) -> Any:
    return of._client(Hub(), service, region, endpoint, fips=fips)[1]


@pytest.mark.usefixtures("stray")
@pytest.mark.parametrize(
    ("service", "region", "fips", "url"),
    [
        ("sts", "eu-west-1", "", "https://sts.eu-west-1.amazonaws.com"),
        ("sts", "us-east-1", "", "https://sts.us-east-1.amazonaws.com"),
        ("sts", "us-east-1", "fips", "https://sts-fips.us-east-1.amazonaws.com"),
        ("sts", "us-gov-west-1", "fips", "https://sts.us-gov-west-1.amazonaws.com"),
        ("sts", "cn-north-1", "", "https://sts.cn-north-1.amazonaws.com.cn"),
        ("iam", "eu-west-1", "", "https://iam.amazonaws.com"),
        ("iam", "us-east-1", "fips", "https://iam-fips.amazonaws.com"),
        ("secretsmanager", "eu-west-1", "", "https://secretsmanager.eu-west-1.amazonaws.com"),
    ],
)
def test_only_the_config_says_where_requests_go(service: str, region: str, fips: str, url: str, tmp_path: Path) -> None:
    found = client(clients(tmp_path), service, region, fips=bool(fips))
    assert found.meta.endpoint_url == url
    config = found.meta.config
    assert config.retries["total_max_attempts"] == 1
    assert (config.connect_timeout, config.read_timeout) == (0.2, 0.2)


@pytest.mark.usefixtures("stray")
def test_a_request_is_signed_with_the_keys_of_the_config(tmp_path: Path) -> None:
    signed: list[Any] = []
    sts = client(clients(tmp_path), "sts", "eu-west-1", "http://127.0.0.1:9")
    sts.meta.events.register("before-send", lambda request, **_: signed.append(request.headers["Authorization"]))
    with pytest.raises(Exception, match="connect"):
        sts.get_caller_identity()
    assert b"Credential=AKIAEXAMPLE/" in signed[0]


def test_a_proxy_is_for_aws_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:7")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:7")
    of = clients(tmp_path)
    proxied = client(of, "sts", "eu-west-1")._endpoint.http_session._proxy_config
    direct = client(of, "sts", "eu-west-1", "http://ceph.example")._endpoint.http_session._proxy_config
    assert proxied.proxy_url_for("https://sts.eu-west-1.amazonaws.com") == "http://127.0.0.1:7"
    assert direct.proxy_url_for("http://ceph.example") is None


def test_fips_is_no_matter_of_an_address_of_ones_own(tmp_path: Path) -> None:
    """The SDK would refuse the two together."""
    answer = clients(tmp_path).call("sts", "eu-west-1", "http://127.0.0.1:9", "get_caller_identity", fips=True)
    assert answer == Failure(code="EndpointConnectionError", sent=False)


def test_clients_are_kept_but_not_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_CLIENTS", 3)
    of = clients(tmp_path)
    first = client(of, "sts", "eu-west-1")
    assert client(of, "sts", "eu-west-1") is first
    second = client(of, "sts", "eu-west-2")
    client(of, "sts", "eu-west-3")
    assert client(of, "sts", "eu-west-1") is first  # used just now: another one goes
    client(of, "sts", "eu-north-1")
    assert client(of, "sts", "eu-west-1") is first
    assert client(of, "sts", "eu-west-2") is not second
    assert len(of._clients) == 3


def test_a_hub_that_goes_takes_its_clients_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_HUBS", 2)
    of = clients(tmp_path)
    for number in range(5):
        hub = Hub(role_arn=f"arn:aws:iam::123456789012:role/hub{number}")
        of._client(hub, "sts", "eu-west-1", "", fips=False)
    assert {key[0] for key in of._clients} == set(of._actors)
    assert len(of._actors) == 2


def test_the_base_identity_stays_whatever_hubs_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_HUBS", 1)
    of = clients(tmp_path)
    for hub in (Hub(), Hub(role_arn="a"), Hub()):
        actor, _ = of._client(hub, "sts", "eu-west-1", "", fips=False)
        assert (actor.identity is of.identity) is (not hub.role_arn)


def test_nothing_is_sent_without_keys(tmp_path: Path) -> None:
    of = clients(tmp_path, secret_access_key_file=tmp_path / "none")
    answer = of.call("sts", "eu-west-1", "http://127.0.0.1:9", "get_caller_identity")
    assert isinstance(answer, Failure)
    assert (answer.code, answer.sent, answer.why) == (
        "SecretKeyFileUnreadable",
        False,
        "[aws] secret_access_key_file cannot be read",
    )


@pytest.mark.parametrize("content", ["", "  \n", "two\nlines", "k" * 30_000, "schlüssel"])
def test_a_key_file_must_hold_a_key(content: str, tmp_path: Path) -> None:
    of = clients(tmp_path)
    (tmp_path / "aws.key").write_text(content)
    answer = of.call("sts", "eu-west-1", "http://127.0.0.1:9", "get_caller_identity")
    assert isinstance(answer, Failure)
    assert (answer.code, answer.sent) == ("SecretKeyFileUnreadable", False)


def test_the_default_chain_finds_variables_and_says_when_there_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    of = clients(tmp_path, access_key_id="", secret_access_key_file=None)
    answer = of.call("sts", "eu-west-1", "http://127.0.0.1:9", "get_caller_identity")
    assert isinstance(answer, Failure)
    assert (answer.code, answer.sent) == ("BrokerCredentialsMissing", False)
    assert "found no AWS credentials" in answer.why
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIACHAIN")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    of = clients(tmp_path, access_key_id="", secret_access_key_file=None)
    assert of.identity.keys().access_key_id == "AKIACHAIN"
    assert of.identity.left() is None


def test_a_program_of_the_default_chain_leaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The SDK raises and logs what it wrote to stderr."""
    caplog.set_level(logging.DEBUG)
    script = tmp_path / "helper"
    count = tmp_path / "count"
    script.write_text(
        f"#!/bin/sh\necho x >> {count}\n"
        f"if [ $(wc -l < {count}) = 1 ]; then date -u -d '+5 min' "
        f'\'+{{"Version":1,"AccessKeyId":"A","SecretAccessKey":"{SECRET}","SessionToken":"t","Expiration":"%FT%TZ"}}\'\n'
        f"else echo {SECRET} >&2; exit 1; fi\n"
    )
    script.chmod(0o700)
    file = tmp_path / "config"
    file.write_text(f"[profile work]\ncredential_process = {script}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    of = clients(tmp_path, access_key_id="", secret_access_key_file=None)
    answer = of.call("sts", "eu-west-1", "http://127.0.0.1:9", "get_caller_identity")
    assert isinstance(answer, Failure)
    assert (answer.sent, "CredentialRetrievalError" in answer.why) == (False, True)
    assert SECRET not in repr(answer) + caplog.text + "".join(capfd.readouterr())
