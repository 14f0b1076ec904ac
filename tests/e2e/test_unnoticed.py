"""A certificate is exchanged, the network is cut, the broker dies, two leases run out: the step goes on.

STEPCRED_LONG=1 takes ten minutes and the product's own settings, with a cut of 20 s; else a lease lives for seconds.
"""

from __future__ import annotations

import json

import pytest

from tests.support.examples import LONG
from tests.support.netns import alone_python, why_not

SECONDS = 700 if LONG else 60


@pytest.mark.timeout(SECONDS + 30)
def test_a_step_notices_nothing_and_at_its_end_everything_is_dead() -> None:
    if why := why_not("nft", "ip"):
        pytest.skip(why)
    done = alone_python("tests.unnoticed", *(["--long"] if LONG else []), seconds=SECONDS)
    assert done.returncode == 0, done.stderr[-5000:]
    seen = json.loads(done.stdout)
    assert seen["errors"] == []
    assert seen["uses"] > 100  # it was not spared by doing nothing
    assert len(seen["used"]) == 3  # the first lease and two successors, one after the other
    assert [scope for scope in seen["mints"] if scope != "kv"] == ["token"] * 3
    # What was asked for during the cut may reach the broker after it: nobody claims that, and it dies with the rest.
    assert seen["mints"].count("kv") <= 1
    assert seen["certificates"] == 2
    assert seen["told"] in (["DeadlineExceeded", "in time"], ["BrokerUnavailable", "in time"])  # one clear error
    assert seen["alive"]
    assert seen["proven"]
    assert set(seen["states"]) <= {"REVOKED", "VOID"}
