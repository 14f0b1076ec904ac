"""Where AssumeRole goes and whom it trusts: as the SDK resolves it, without a network."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.providers.aws.assume import finding
from broker.providers.aws.assume.finding import sts_place
from broker.providers.aws.sdk import Sdk
from broker.providers.aws.settings import AwsSettings
from tests.support.certs import TestCA
from tests.unit.providers.aws import elsewhere

PROXIES = "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def sdk() -> Sdk:
    second = timedelta(seconds=1)
    return Sdk(AwsSettings(installation="0123abcd4567", connect_timeout=second, read_timeout=second))


@pytest.mark.parametrize(
    ("region", "fips", "host", "signs"),
    [
        ("eu-west-1", "", "sts.eu-west-1.amazonaws.com", "eu-west-1"),
        ("us-east-1", "", "sts.us-east-1.amazonaws.com", "us-east-1"),
        ("us-east-1", "fips", "sts-fips.us-east-1.amazonaws.com", "us-east-1"),
        ("us-gov-west-1", "fips", "sts.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("cn-north-1", "", "sts.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("aws-global", "", "sts.amazonaws.com", "us-east-1"),  # the name of no region: only the SDK knows
    ],
)
def test_regions_are_as_the_sdk_knows_them(  # noqa: PLR0917 - pytest's parameters
    region: str, fips: str, host: str, signs: str, sdk: Sdk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in elsewhere.VARIABLES.items():
        monkeypatch.setenv(name, value)
    found = sts_place(sdk, region, "", fips=bool(fips))
    assert (found.origin.authority, found.origin.tls, found.region, found.plain) == (host, True, signs, True)
    assert found.context is not None
    assert found.context.check_hostname
    assert "Botocore/" in found.user_agent


@pytest.mark.parametrize(
    ("url", "authority", "plain"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("http://[::1]:8000/", "[::1]:8000", True),
        ("https://Ceph.example", "ceph.example", True),
        ("https://ceph.example:443/", "ceph.example", True),
        ("https://ceph.example/sts", "ceph.example", False),
        ("https://ceph.example/?a=b", "ceph.example", False),
    ],
)
def test_an_address_of_ones_own(url: str, authority: str, plain: bool, sdk: Sdk) -> None:  # noqa: FBT001 - pytest's
    found = sts_place(sdk, "eu-west-1", url, fips=False)
    assert (found.origin.authority, found.plain, found.region) == (authority, plain, "eu-west-1")
    assert (found.context is None) is url.startswith("http:")


def test_behind_a_proxy_only_the_sdk_knows_the_way(sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:7")
    assert not sts_place(sdk, "eu-west-1", "", fips=False).plain
    assert sts_place(sdk, "eu-west-1", "https://ceph.example", fips=False).plain
    monkeypatch.setenv("NO_PROXY", ".amazonaws.com")
    assert sts_place(sdk, "eu-west-1", "", fips=False).plain


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_a_bundle_of_the_sites_own_replaces_the_sdks(
    variable: str, sdk: Sdk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(TestCA(tmp_path).root_path))
    context = sts_place(sdk, "eu-west-1", "", fips=False).context
    assert context is not None
    assert len(context.get_ca_certs()) == 1
    monkeypatch.delenv(variable)
    context = sts_place(sdk, "eu-west-1", "", fips=False).context
    assert context is not None
    assert len(context.get_ca_certs()) > 50
    monkeypatch.setenv(variable, str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        sts_place(sdk, "eu-west-1", "", fips=False)


def test_another_signature_is_the_sdks_matter(sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a region that wants Signature 4A would."""
    seen = finding._Seen.__call__

    def otherwise(self: Any, request: Any, **more: Any) -> None:
        request.headers["Authorization"] = b"AWS4-ECDSA-P256-SHA256 Credential=nobody/20261128/sts/aws4_request"
        seen(self, request, **more)

    monkeypatch.setattr(finding._Seen, "__call__", otherwise)
    assert not sts_place(sdk, "eu-west-1", "", fips=False).plain
