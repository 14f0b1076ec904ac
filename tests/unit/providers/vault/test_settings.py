"""Settings that would send tokens in the clear, or cannot work, are refused at construction."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.clock import SystemClock
from broker.errors import ConfigError
from broker.providers.vault.provider import VaultProvider
from broker.providers.vault.settings import TokenFile, VaultSettings
from tests.support.vault import KEYRING

AUTH = TokenFile(path=Path("token"))


async def nobody() -> frozenset[str]:
    return frozenset()


@pytest.mark.parametrize(
    "address", ["https://vault.acme:8200", "https://vault", "http://127.0.0.1:8200", "http://[::1]:1"]
)
def test_https_or_loopback(address: str) -> None:
    assert VaultSettings(address=address, auth=AUTH).problems() == []


@pytest.mark.parametrize(
    "address",
    ["http://vault.acme:8200", "http://10.0.0.1", "vault:8200", "", "https://v/path", "https://v?x=1", "ftp://v"],
)
def test_anything_else_is_refused(address: str) -> None:
    with pytest.raises(ConfigError):
        VaultProvider(VaultSettings(address=address, auth=AUTH), KEYRING, "i", SystemClock(), known=nobody)


def test_a_missing_ca_file_is_named() -> None:
    (problem,) = VaultSettings(address="https://v", auth=AUTH, ca_file=Path("/nowhere/ca.pem")).problems()
    assert "/nowhere/ca.pem" in problem


@pytest.mark.parametrize(
    ("spelt", "name"),
    [("", ""), ("root", ""), ("/", ""), ("root/", ""), ("team-a/", "team-a"), ("/team-a/b", "team-a/b")],
)
def test_a_namespace_has_one_name_however_it_is_spelt(spelt: str, name: str) -> None:
    assert VaultSettings(address="https://v", auth=AUTH, namespace=spelt).namespace_name == name
