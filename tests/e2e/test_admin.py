"""`stepcred admin` against the real daemon and OpenBao: what is seen, what is stopped, and what is told of it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest

from stepcred._admin import Office
from stepcred._errors import Refused
from stepcred.v1 import operator_pb2 as pb
from tests.e2e.wire import Wire, check_refusal, issue, new_id, refusal_of, wire
from tests.e2e.world import LOAD, Site, journal, leases
from tests.support.bao import BaoServer
from tests.support.daemon import TRUST_DOMAIN
from tests.support.processes import free_port, wait_until
from tests.support.proxy import Fault, Proxy, proxy

C = grpc.StatusCode
COMMAND = str(Path(sys.executable).with_name("stepcred"))
HELD_FOR = 2.0  # seconds that a mint takes
WHY = ("--reason", "a drill")


class House:
    """A daemon with two operators, one who only looks, and a proxy before its OpenBao."""

    def __init__(self, site: Site, folder: Path, between: Proxy) -> None:
        self.site = site
        self.between = between
        self.port = free_port()
        self.people = folder / "operators.yaml"
        self.write(ann="[responder]", bob="[approver]", vic="[]")
        made = site.deployment(vault={"address": between.address})
        made.more = {
            **made.more,
            "operators": {
                "client_ca_file": str(made.ca.operator_root_path),
                "listen": f"127.0.0.1:{self.port}",
                "file": str(self.people),
            },
        }
        made.write_config()
        self.deployment = made
        self._env: dict[str, dict[str, str]] = {}

    def write(self, **roles: str) -> None:
        ids = {name: f'["spiffe://{TRUST_DOMAIN}/operator/{name}"]' for name in roles}
        lines = (f"  {name}: {{ids: {ids[name]}, roles: {has}}}\n" for name, has in roles.items())
        self.people.write_text("version: 1\noperators:\n" + "".join(lines))

    def env(self, name: str) -> dict[str, str]:
        if name not in self._env:
            creds = self.deployment.ca.operator(f"spiffe://{TRUST_DOMAIN}/operator/{name}")
            self._env[name] = {
                "STEPCRED_ADMIN_ADDR": f"localhost:{self.port}",
                "STEPCRED_ADMIN_CERT": str(creds.cert),
                "STEPCRED_ADMIN_KEY": str(creds.key),
                "STEPCRED_ADMIN_CA": str(creds.ca),
            }
        return self._env[name]

    def office(self, name: str = "vic") -> Office:
        return Office(self.env(name))

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [COMMAND, "admin", *arguments]
        env = os.environ | self.env(name)
        return subprocess.run(
            argv, env=env, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
        )

    def start_mint(self, client: Wire, handle: str) -> grpc.Future[Any]:
        """A call in flight, with OpenBao's answer on its way."""
        path = f"/auth/token/create/{self.site.name}-token "
        self.between.inject(Fault.HELD, path, delay=HELD_FOR)
        call = client.start("IssueCredential", issue(handle, "token"))
        wait_until(lambda: self.between.times == 0, within=15, what="the mint's request")
        assert isinstance(call, grpc.Future)
        return call

    def nothing_alive(self) -> bool:
        return not self.site.live_tokens()


@pytest.fixture(scope="module")
def between(bao: BaoServer) -> Iterator[Proxy]:
    """On a loop of its own, as long as the module's daemon."""
    started, ended, found = threading.Event(), asyncio.Event(), []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with proxy(urlsplit(bao.address).port or 0) as one:
            found.append(one)
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    yield found[0]
    loop.call_soon_threadsafe(ended.set)
    thread.join(10)


@pytest.fixture(scope="module")
def house(site: Site, between: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(site, tmp_path_factory.mktemp("people"), between)
    with house.deployment.daemon():
        yield house


@pytest.fixture
def client(house: House) -> Iterator[Wire]:
    with wire(house.deployment, house.deployment.agent(LOAD)) as connected:
        yield connected
    wait_until(house.nothing_alive, within=20, what="the end of all tokens")


def test_two_see_the_same_and_one_of_them_ends_it(house: House, client: Wire) -> None:
    run, other = new_id(), new_id()
    mine, kept = client.begin(run, "token"), client.begin(other, "token")
    lease, stays = (client.issue(handle, "token").lease.lease_id for handle in (mine, kept))
    for name in ("ann", "vic"):
        told = house.run(name, "leases", "list", "--run", run, "--json")
        (row,) = json.loads(told.stdout)["leases"]
        assert (row["lease"]["lease_id"], row["state"], row["agent"]) == (
            lease,
            "ACTIVE",
            f"spiffe://{TRUST_DOMAIN}/{LOAD}",
        )
    told = house.run("ann", "leases", "revoke", "--run", run, "--dry-run")
    assert (told.returncode, "1 lease would die" in told.stdout, lease in told.stdout) == (0, True, True)
    assert leases(house.deployment)[lease].state.value == "ACTIVE"
    refused = house.run("vic", "leases", "revoke", "--run", run, "--yes", *WHY)
    assert (refused.returncode, "ROLE_MISSING" in refused.stderr, "role: responder" in refused.stderr) == (
        77,
        True,
        True,
    )
    assert leases(house.deployment)[lease].state.value == "ACTIVE"
    done = house.run("ann", "leases", "revoke", "--run", run, "--yes", *WHY)
    assert (done.returncode, done.stderr) == (0, "")
    wait_until(lambda: house.site.live_leases() == {stays}, within=10, what="one token's end")
    (ordered,) = journal(house.deployment, "REVOKE_ORDERED")
    assert (ordered["data"]["operator"], ordered["data"]["why"], ordered["run"]) == ("ann", "a drill", run)
    client.end(kept)
    client.end(mine)


def test_the_kill_switch_reaches_a_request_in_flight(house: House, client: Wire) -> None:
    """What is being minted is never delivered, and dies as soon as it exists."""
    run = new_id()
    call = house.start_mint(client, client.begin(run, "token"))
    with house.office("ann") as office:
        request = pb.RevokeLeasesRequest(selection=pb.Selection(run=run), reason="a leak", end_steps=True)
        done = office.ask("RevokeLeases", request)
    assert (done.lease_count, done.step_count) == (1, 1)
    assert not call.done()
    error = call.exception(timeout=20)
    assert isinstance(error, grpc.RpcError)
    assert refusal_of(error).code is C.FAILED_PRECONDITION
    wait_until(house.nothing_alive, within=10, what="the end of what was minted")


def test_a_freeze_reaches_a_request_in_flight_and_is_taken_back(house: House, client: Wire) -> None:
    run = new_id()
    handle = client.begin(run, "token", "kv")
    call = house.start_mint(client, handle)
    frozen = house.run("ann", "freeze", "--scope", "token", "--yes", "--json", *WHY)
    assert frozen.returncode == 0, frozen.stderr
    found = json.loads(frozen.stdout)
    assert (found["done"], found["lease_count"], found["freeze"]["by"]) == (True, 1, "ann")
    error = call.exception(timeout=20)
    assert isinstance(error, grpc.RpcError)
    check_refusal(refusal_of(error), "FROZEN", C.FAILED_PRECONDITION)
    check_refusal(client.refused("IssueCredential", issue(handle, "token")), "FROZEN", C.FAILED_PRECONDITION)
    assert client.issue(handle, "kv").lease.lease_id, "another scope is not frozen"
    assert "scope token" in house.run("vic", "freezes").stdout
    undone = house.run("ann", "unfreeze", found["freeze"]["freeze_id"], "--yes", *WHY)
    assert undone.returncode == 0, undone.stderr
    assert client.issue(handle, "token").lease.lease_id
    client.end(handle)


def test_everything_takes_the_environments_name_typed_at_a_terminal(house: House, client: Wire) -> None:
    """A real one: the wrong word does nothing."""
    handle = client.begin(new_id(), "token")
    client.issue(handle, "token")
    for word, code in (("1\n", 1), ("dev\n", 0)):
        ours, theirs = pty.openpty()
        argv = [COMMAND, "admin", "leases", "revoke", "--all", *WHY]
        with subprocess.Popen(
            argv, env=os.environ | house.env("ann"), stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            os.write(ours, word.encode())
            _, told = process.communicate(timeout=30)
        os.close(theirs)
        os.close(ours)
        assert process.returncode == code, told
        assert b"type dev:" in told
        assert code == 0 or house.site.live_tokens()
    wait_until(house.nothing_alive, within=10, what="the end of everything")
    client.end(handle)


def test_a_refusal_and_a_lease_are_explained(house: House, client: Wire) -> None:
    handle = client.begin(new_id(), "token")
    refused = client.refused("IssueCredential", issue(handle, "danger"))
    told = house.run("vic", "explain", refused.reference)
    assert told.returncode == 0
    assert "SCOPE_NOT_NAMED" in told.stdout
    lease = client.issue(handle, "token").lease.lease_id
    client.end(handle)
    told = house.run("vic", "explain", lease)
    for word in (f"lease {lease} is REVOKED", "SEEN_DEAD", "nightly (", "LEASE_INTENT"):
        assert word in told.stdout
    assert house.run("vic", "explain", "a" * 16).returncode == 1


def test_one_runs_story_is_on_one_screen(house: House, client: Wire) -> None:
    run = new_id()
    handle = client.begin(run, "token", "kv")
    for scope in ("token", "kv"):
        client.issue(handle, scope)
    client.refused("IssueCredential", issue(handle, "danger"))
    client.end(handle)
    told = house.run("vic", "timeline", run)
    assert told.returncode == 0
    lines = told.stdout.splitlines()
    assert len(lines) <= 24
    for what in ("begins", "minted", "refused", "ends", "dead"):
        assert what in told.stdout
    assert "SEEN_DEAD" in told.stdout
    assert "ACCESS_ENDED" in told.stdout


def test_the_journal_is_followed_until_the_reader_is_none(house: House, client: Wire) -> None:
    """Whoever is taken out of the file hears nothing more, in an open stream too."""
    run = new_id()
    with house.office() as office:
        tail = office.stream("TailJournal", pb.TailJournalRequest(follow=True, kinds=["STEP_BEGUN"], back=1))
        told = [json.loads(entry.body)["run"] for entry in next(tail).entries]
        handle = client.begin(run, "token")
        told += [json.loads(entry.body)["run"] for entry in next(tail).entries]
        assert told[-1] == run
        try:
            house.write(ann="[responder]", bob="[approver]")
            with pytest.raises(Refused) as refused:
                next(tail)
            assert refused.value.reason == "OPERATOR_UNKNOWN"
        finally:
            house.write(ann="[responder]", bob="[approver]", vic="[]")
            client.end(handle)

    def is_back() -> bool:
        return house.run("vic", "health").returncode == 0

    wait_until(is_back, within=20, what="vic in the file again")


def test_what_the_broker_is_and_who_one_is_to_it(house: House) -> None:
    told = json.loads(house.run("bob", "whoami", "--json").stdout)
    assert (told["name"], told["roles"], told["environment"]) == ("bob", ["viewer", "approver"], "dev")
    assert "not in the operators file" in house.run("eve", "whoami").stdout
    with house.office() as office:
        found = office.ask("GetHealth", pb.GetHealthRequest())
        assert [one.name for one in found.providers] == ["vault"]
        assert not found.problems
        scope_map = office.ask("GetScopeMap", pb.GetScopeMapRequest())
        assert (scope_map.workloads, scope_map.scopes, scope_map.grants) == (2, 6, 2)
