"""One run: a daemon over OpenBao, clients that ask all the time, and a map that changes under them."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.store.sqlite import OfflineStore
from tests.reloads import armed_broker
from tests.reloads.audit import Audit
from tests.reloads.load import Found, load
from tests.reloads.maps import FILE, Version, broken, choose, half_digest, put, put_in_halves
from tests.support.bao import BaoServer, TokenRole, provision
from tests.support.daemon import Deployment, vault_section

AGENT = "workflow/nightly/step/load"
WORKERS = 16
TAKEN = 15.0  # seconds within which a map is taken or refused
DEAD = 5.0  # seconds within which a credential is dead whose grant went
POLL = 0.01
MORE: dict[str, Any] = {
    "guard": {tier: {"budget": 1000, "hourly": 1_000_000} for tier in ("low", "high")},
    "limits": {"request_rate": 5000.0, "request_burst": 5000},
    "log": {"level": "info"},
}


@dataclass
class Findings:
    """Of a run."""

    reloads: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = f"{len(self.wrong)} wrong decisions, {len(self.lost)} lost, {len(self.leaked)} leaked"
        return f"{self.reloads} reloads, {self.refused} refused, {counts}"

    @property
    def any(self) -> bool:
        return bool(self.wrong or self.lost or self.leaked)


class Harness:
    """Writes one map after the other, and waits for each to be taken or refused."""

    def __init__(self, bao: BaoServer, folder: Path, *, seed: int, mutant: str = "", until: str = "") -> None:
        self._bao = bao
        self._seed = seed
        self._mutant = mutant
        self._sought = until
        self._random = random.Random(seed)
        self._found = Found()
        self.findings = Findings()
        self.excused = 0  # halves that stood too long to be told from a map
        login = provision(bao, folder, [TokenRole(name="reloads")], broker="reloads-broker")
        first = Version(number=0)
        self._audit = Audit(versions={first.digest: first})
        scopes = {"file": FILE, "poll": "1s", "grace": {"low": "0s", "elevated": "0s"}}
        self._deployment = Deployment(
            folder / "daemon",
            first.text,
            vault=vault_section(bao, login),
            more={**MORE, "scopes": scopes},
            module="tests.reloads.armed_broker",
        )
        self._after: tuple[int, int] | None = None

    @property
    def answers(self) -> dict[str, int]:
        return dict(self._found.answers)

    async def run(self, reloads: int) -> None:
        with (
            self._deployment.daemon(env={armed_broker.MUTANT: self._mutant}) as daemon,
            self._deployment.store() as store,
        ):
            creds = self._deployment.agent(AGENT)
            async with load(self._deployment.addr, creds, self._found, workers=WORKERS, seed=self._seed):
                await asyncio.sleep(0.3)
                for number in range(1, reloads + 1):
                    await self._reload(number, daemon, store)
                    if self._sought and self._seen():
                        break
                await self._take_all_away(reloads + 1, daemon, store)
            await self._at_rest(store)
        self.findings.wrong += [*self._audit.wrong, *self._found.wrong]
        self.findings.leaked = self._leaked()
        self.findings.lost += self._found.lost

    def _seen(self) -> bool:
        """What this run is for. A mutant's other faults do not end it: which one shows first is a matter of timing."""
        return any(re.search(self._sought, one) for one in (*self._audit.wrong, *self._found.wrong, *self._leaked()))

    def _leaked(self) -> list[str]:
        return [*self.findings.leaked, *self._audit.late]

    async def _reload(self, number: int, daemon: subprocess.Popen[bytes], store: OfflineStore) -> None:
        how = choose(number, self._random)
        self.findings.reloads += 1
        refused = self._audit.refused
        if how:
            put(self._deployment.scopes_file, *broken(number, how))
            self.findings.refused += 1
        else:
            self._write(Version(number=number))
        if self._random.random() < 0.5:
            daemon.send_signal(signal.SIGHUP)
        if how:
            taken = await self._until(store, lambda: self._audit.refused > refused)
        else:
            taken = await self._until(store, lambda: self._audit.current == Version(number=number))
        if not taken:
            self.findings.lost.append(f"map {number} ({how or 'good'}) was neither taken nor refused")
        elif not how:
            await self._gone_is_dead(Version(number=number))

    def _write(self, version: Version) -> None:
        self._audit.versions[version.digest] = version
        if self._random.random() < 0.5:
            put(self._deployment.scopes_file, version.text)
        elif put_in_halves(self._deployment.scopes_file, version) >= armed_broker.SETTLE:
            # This machine stood still for so long that the half may have been read twice: nobody could tell.
            self._audit.versions[half_digest(version)] = version
            self.excused += 1

    async def _until(self, store: OfflineStore, check: Callable[[], bool], within: float = TAKEN) -> bool:
        until = asyncio.get_running_loop().time() + within
        while not check():
            if asyncio.get_running_loop().time() > until:
                return False
            await asyncio.sleep(POLL)
            self._read(store)
        return True

    def _read(self, store: OfflineStore) -> None:
        while page := store.read(lambda tx: tx.journal(after=self._after)):
            self._after = (page[-1].chain, page[-1].seq)
            self._audit.read(page)

    async def _gone_is_dead(self, version: Version) -> None:
        """By the word of OpenBao, with the tokens themselves: what clients hold and this map does not give."""
        held = list(self._found.held.items())
        gone = [(lease_id, token) for lease_id, (scope, token) in held if scope not in version.given]
        until = asyncio.get_running_loop().time() + DEAD
        while gone:
            answers = await asyncio.gather(*(asyncio.to_thread(self._lives, token) for _, token in gone))
            gone = [one for one, lives in zip(gone, answers, strict=True) if lives]
            if gone and asyncio.get_running_loop().time() > until:
                self.findings.leaked += [f"lease {lease_id}, {DEAD:g} s after {version}" for lease_id, _ in gone]
                return

    def _lives(self, token: str) -> bool:
        return self._bao.call("GET", "auth/token/lookup-self", token=token).status == 200

    async def _take_all_away(self, number: int, daemon: subprocess.Popen[bytes], store: OfflineStore) -> None:
        """The last map gives nothing, while all clients go on asking."""
        while Version(number=number).given:
            number += 1
        put(self._deployment.scopes_file, Version(number=number).text)
        self._audit.versions[Version(number=number).digest] = Version(number=number)
        daemon.send_signal(signal.SIGHUP)
        if not await self._until(store, lambda: self._audit.current == Version(number=number)):
            self.findings.lost.append("the last map was not taken")
        await self._gone_is_dead(Version(number=number))

    async def _at_rest(self, store: OfflineStore) -> None:
        """Nothing is alive, neither by the journal nor at OpenBao."""
        await self._until(store, lambda: not self._audit.alive(), DEAD)
        self.findings.leaked += [f"lease {lease_id} is not dead in the end" for lease_id in self._audit.alive()]
        for token in await asyncio.to_thread(self._bao.live_tokens):
            if token.get("role") == "reloads":
                self.findings.leaked.append(f"token of lease {token['meta']} lives in the end")
