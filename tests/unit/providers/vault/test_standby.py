"""A standby is told that it is behind, in the words that its own cluster uses, and in no others."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from broker.providers.vault.settings import TokenFile, VaultSettings
from broker.providers.vault.standby import INDEX, ActiveOnly
from broker.providers.vault.transport import Transport


def index(**told: str) -> str:
    return base64.b64encode(json.dumps(told).encode()).decode()


def test_before_any_answer_nothing_is_said() -> None:
    assert ActiveOnly().headers() == {}


def test_an_index_far_ahead_in_the_last_cluster_heard_makes_it_ask_the_active_node() -> None:
    active = ActiveOnly()
    active.hear(index(cluster="c-0", value="9"))
    active.hear(index(cluster="c-1", value="47"))
    sent = active.headers()
    assert sent["X-Vault-Inconsistent"] == "forward-active-node"
    assert json.loads(base64.b64decode(sent[INDEX])) == {"cluster": "c-1", "value": str(2**62)}


@pytest.mark.parametrize(
    "other", ["", "junk", base64.b64encode(b"v1:c-1:1:2:hmac").decode(), index(value="1"), "WzFd", "MQ=="]
)
def test_what_is_not_understood_is_not_imitated(other: str) -> None:
    active = ActiveOnly()
    active.hear(other)
    assert active.headers() == {}


async def test_all_connections_to_a_server_share_what_was_heard() -> None:
    one = Transport(VaultSettings(address="https://v", auth=TokenFile(path=Path("none"))))
    one._active.hear(index(cluster="c-1", value="47"))
    async with one.showing(Path("cert"), Path("key")) as shown:
        for other in (shown, one.another()):
            assert other._active.headers() == one._active.headers() != {}
