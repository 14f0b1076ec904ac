"""Each broken map of tests/fixtures/scope_maps/broken says exactly what its `.errors` file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.policy.language.files import MAX_BYTES
from broker.policy.language.load import load, parse
from broker.policy.problems import ScopeMapError
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE

BROKEN = sorted((Path(__file__).parents[2] / "fixtures" / "scope_maps" / "broken").glob("*.yaml"))


def test_there_are_enough_of_them() -> None:
    assert len(BROKEN) >= 40


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_broken_map_says_exactly_what_is_wrong_and_where(path: Path) -> None:
    with pytest.raises(ScopeMapError) as caught:
        parse(path.read_bytes(), path.name, KINDS)
    assert str(caught.value) + "\n" == path.with_suffix(".errors").read_text()


def test_a_file_of_50_mb_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    with path.open("wb") as file:
        file.truncate(50 * 1024 * 1024)
    with pytest.raises(ScopeMapError, match=f":1:1: larger than {MAX_BYTES} bytes"):
        load(path, KINDS)


def test_a_missing_file_is_a_problem_like_any_other(tmp_path: Path) -> None:
    with pytest.raises(ScopeMapError, match=r"map\.yaml:1:1: does not exist"):
        load(tmp_path / "map.yaml", KINDS)


def test_a_map_for_another_environment_or_trust_domain_is_refused() -> None:
    with pytest.raises(ScopeMapError) as caught:
        parse(BASE, "map.yaml", KINDS, environment="dev", trust_domain="dev.acme.internal")
    assert str(caught.value).splitlines() == [
        "map.yaml:2:14: this is a map for 'prod'; the broker serves 'dev'",
        "map.yaml:3:15: this is a map for 'prod.acme.internal'; the broker serves 'dev.acme.internal'",
    ]


def test_grants_whose_product_would_fill_the_memory_are_refused() -> None:
    many = range(1100)
    workloads = "".join(f"  w{n}: {{id: spiffe://d/w{n}}}\n" for n in many)
    scopes = "".join(f"  s{n}: {{fake: {{role: r}}, tier: low}}\n" for n in many)
    names = {letter: ", ".join(f"{letter}{n}" for n in many) for letter in "ws"}
    text = f"version: 1\nenvironment: e\ntrust_domain: d\nworkloads:\n{workloads}scopes:\n{scopes}grants:\n"
    text += f"  g: {{workloads: [{names['w']}], workflows: ['*'], scopes: [{names['s']}]}}\n"
    with pytest.raises(ScopeMapError, match="more than 1000000 pairs of scope and workload"):
        parse(text, "map.yaml", KINDS)


_PEM = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgSECRETSECRETSECRET
-----END PRIVATE KEY-----
"""


@pytest.mark.parametrize(
    "text",
    [
        _PEM,
        "ab12:" + "5ec12e75" * 8,
        "5ec12e75" * 8 + ": 1",
        "5ec12e75 s.ecret: {a: 1}",
        "SECRET+SECRET/SECRET=: 1\nSECRET+SECRET/SECRET=: 2",
        "123456: 1",
        BASE + "grants:\n  ? 5ec12e75/s\n  : {workloads: [w], workflows: [5ec/12e75], scopes: [s]}\n",
        BASE + "tiers: {" + "5ec12e75" * 8 + ": {revocability: [EXACT]}}\n",
        '{"token": "SECRET", "auth": {"SECRET/x": 1}}',
    ],
)
def test_another_file_in_the_maps_place_is_not_quoted(text: str) -> None:
    with pytest.raises(ScopeMapError) as caught:
        parse(text, "map.yaml", KINDS)
    for secret in ("SECRET", "5ec", "12e75", "123456"):
        assert secret not in str(caught.value)
