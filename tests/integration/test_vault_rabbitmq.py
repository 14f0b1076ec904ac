"""A RabbitMQ login, leased as a database login is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.model import Evidence, UsernamePassword
from tests.support.bao import BaoServer, TokenRole, provision
from tests.support.rabbitmq import MISSING, RabbitServer, find_rabbitmq, rabbitmq
from tests.support.vault import new_ref, order_of, vault_provider, with_refs

READ = "rabbitmq/creds/worker"


@pytest.fixture(scope="module")
def mq() -> Iterator[RabbitServer]:
    sbin = find_rabbitmq()
    if sbin is None:
        pytest.skip(MISSING)
    with rabbitmq(sbin) as server:
        yield server


async def test_a_login_dies_with_its_lease(bao: BaoServer, mq: RabbitServer, tmp_path: Path) -> None:
    bao.must("POST", "sys/mounts/rabbitmq", {"type": "rabbitmq"})
    connection = {"connection_uri": mq.management, "username": "guest", "password": "guest"}
    bao.must("POST", "rabbitmq/config/connection", connection)
    permissions = '{"/": {"configure": "", "write": ".*", "read": ".*"}}'
    bao.must("POST", "rabbitmq/roles/worker", {"vhosts": permissions, "tags": "management"})
    login = provision(bao, tmp_path, [TokenRole(name="mq", reads=[READ])], broker="mq-broker")

    ref = new_ref({"role": "mq", "read": READ})
    async with vault_provider(bao.address, login) as provider:
        minted = await provider.mint(order_of(ref))
        made = minted.credential
        assert isinstance(made, UsernamePassword)
        assert made.username in mq.users()
        assert mq.status("whoami", made.username, made.password.reveal()) == 200

        assert (await provider.revoke(with_refs(ref, minted.refs))).evidence is Evidence.SEEN_DEAD
        assert mq.status("whoami", made.username, made.password.reveal()) == 401
        assert made.username not in mq.users()
