"""The recipe that bounds connections per peer: the kernel's own tools take it, and it does what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.netns import alone, alone_python, why_not

RECIPE = Path(__file__).parents[2] / "deploy" / "nftables" / "stepcred.nft"
AT_ONCE, BURST = 64, 100


@pytest.fixture(autouse=True)
def in_a_network_of_its_own() -> None:
    if why := why_not("nft", "ip"):
        pytest.skip(why)


def test_the_recipe_is_accepted_and_can_be_loaded_again() -> None:
    assert alone(["nft", "-c", "-f", str(RECIPE)]).stderr == ""
    twice = alone(["sh", "-c", f"nft -f {RECIPE} && nft -f {RECIPE} && nft list table inet stepcred"])
    assert twice.returncode == 0, twice.stderr
    assert twice.stdout.count("chain input") == 1


def test_a_peer_gets_its_share_and_another_still_gets_in() -> None:
    done = alone_python("tests.attack.peers", str(RECIPE))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["greedy"] == AT_ONCE
    assert told["greedy6"] == AT_ONCE  # of two addresses of one /64
    assert (told["honest"], told["honest6"], told["later"]) == (10, 10, 10)
    assert told["too fast"] > 0
    assert 200 - told["too fast"] <= AT_ONCE
