"""One attack after the other on the same daemon; before, during and after each, what the honest meet and what it costs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.attack.attacks import FEW_FILES, idle
from tests.attack.honest import Calls, Honest, percentile
from tests.attack.site import Victim, victim
from tests.attack.target import Target
from tests.bench.load import cpu_seconds

CALM, REHEARSAL, AFTERWARDS = "calm", "rehearsal", "afterwards"
CROWD = idle.CONNECTIONS
SETTLE = 60.0  # seconds for memory to come back
FIRST = 1.25  # times what memory was, after the first crowd: gRPC and glibc keep something of it, 18 MB of 2,000 connections
MEGABYTE = 1e6
SUCCESS = 0.999
P99 = 500.0  # ms
SLACK = 20.0  # seconds that an attacker may take beyond its time
FILES = 700  # of the daemon that has few: a reserve of 384, so some 300 connections
LOOK = 0.25  # seconds


@dataclass(frozen=True, kw_only=True)
class Size:
    """How long, and how much of each attack's count."""

    name: str
    seconds: float
    count: float  # share
    settle_each: bool  # wait for memory after each attack, not just once in the end
    rest: float  # seconds after the first crowd, before anything is measured
    grown: float  # times what memory was, in the end; where each attack comes once it is its first one

    def seconds_of(self, attack: str) -> float:
        """100,000 refusals take their time."""
        return self.seconds * (6 if attack == "refused-requests" else 1)


SIZES = {
    "long": Size(name="long", seconds=20.0, count=1.0, settle_each=True, rest=20.0, grown=1.1),
    "short": Size(name="short", seconds=1.5, count=0.1, settle_each=False, rest=2.0, grown=FIRST),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was found of one attack."""

    attack: str
    seconds: float
    calls: int
    success: float
    failed: dict[str, int]
    p50_ms: float
    p99_ms: float
    new_p99_ms: float  # of connecting anew, with the first call
    cpu: float  # cores that the daemon used
    memory_before: float  # MB
    memory_peak: float
    memory_after: float
    settled_s: float  # until memory was back; -1 when it never was
    growth: int  # bytes of the database, without what the honest steps left
    alive: bool
    told: dict[str, int] = field(default_factory=dict)  # by the attacker
    problems: tuple[str, ...] = ()  # safety
    slow: tuple[str, ...] = ()  # latency


class Harness:
    """One run."""

    def __init__(
        self, folder: Path, size: Size, *, seed: int, mutant: str, memory: bool, say: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._size = size
        self._seed = seed
        self._mutant = mutant
        self._memory = memory
        self._say = say
        self._per_step = 0.0  # bytes of the database that one honest step leaves
        self.rows: list[Row] = []

    async def run(self, names: list[str]) -> None:
        """All of them; those that need a daemon with few files come last."""
        groups = [([name for name in names if name not in FEW_FILES], 0), ([n for n in names if n in FEW_FILES], FILES)]
        for group, files in groups:
            if group:
                with victim(self._folder / f"files{files}", mutant=self._mutant, files=files) as found:
                    await self._all(found, group, files)

    async def _all(self, found: Victim, names: list[str], files: int) -> None:
        honest = Honest(found)
        async with honest.working():
            await asyncio.sleep(1)  # the first calls of a process are slow
            if self._memory and not files:
                await self._rehearse(found)
            calm = await self._calm(found, honest)
            for name in names:
                row = await self._attack(found, honest, name)
                self.rows.append(row)
                self._say(f"{name}: {', '.join((*row.problems, *row.slow)) or 'ok'}")
                if not row.alive:
                    return
            if self._memory and not files:
                took, _ = await self._settled(found, calm.memory_before)
                self.rows.append(_of_memory(AFTERWARDS, found, before=calm.memory_before, settled=took))

    async def _rehearse(self, found: Victim) -> None:
        """A crowd that comes and goes: gRPC keeps some 9 kB of each connection of the largest one, for the next."""
        self._say(f"{CROWD} connections come and go")
        before = found.memory
        await idle.come_and_go(found.deployment.grpc_port, CROWD)
        peak = found.memory
        await asyncio.sleep(self._size.rest)
        took, _ = await self._settled(found, before, FIRST)
        self.rows.append(_of_memory(REHEARSAL, found, before=before, settled=took, peak=peak))

    async def _calm(self, found: Victim, honest: Honest) -> Row:
        before, pages, steps = found.memory, found.database, honest.steps
        calls, cpu, peak = await self._while(found, honest, self._size.seconds, None)
        self._per_step = max(0, found.database - pages) / max(1, honest.steps - steps)
        row = self._row(
            CALM, found, calls, cpu, before=max(before, found.memory), peak=peak, settled=0.0, growth=0, told={}
        )
        self.rows.append(row)
        return row

    async def _attack(self, found: Victim, honest: Honest, name: str) -> Row:
        seconds = self._size.seconds_of(name)
        self._say(f"{name}, up to {seconds:.0f} s")
        before, pages, steps = found.memory, found.database, honest.steps
        creds = found.deployment.agent("workflow/hoard/step/load")
        target = Target.of(found.deployment.grpc_port, creds, seconds=seconds, size=self._size.count, seed=self._seed)
        path = self._folder / f"{name}.json"
        target.save(path)
        attacker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.attack.attacker", name, str(path), stdout=asyncio.subprocess.PIPE
        )
        calls, cpu, peak = await self._while(found, honest, seconds + SLACK, attacker)
        told = await _last_words(attacker)
        settled, _ = await self._settled(found, before) if self._memory and self._size.settle_each else (0.0, 0.0)
        growth = max(0, int(found.database - pages - self._per_step * (honest.steps - steps)))
        return self._row(name, found, calls, cpu, before=before, peak=peak, settled=settled, growth=growth, told=told)

    async def _while(
        self, found: Victim, honest: Honest, seconds: float, attacker: asyncio.subprocess.Process | None
    ) -> tuple[Calls, float, float]:
        """The honest calls, the daemon's CPU in cores and its largest size, until the attacker ends or time is up."""
        calls = honest.calls = Calls()
        start, cpu, peak = time.monotonic(), _cpu(found), 0.0
        while time.monotonic() - start < seconds and found.alive:
            if attacker is not None and attacker.returncode is not None:
                break
            peak = max(peak, found.memory)
            await asyncio.sleep(LOOK)
        calls.seconds = time.monotonic() - start
        honest.calls = Calls()
        await asyncio.sleep(LOOK)  # calls under way are still counted where they began
        return calls, (_cpu(found) - cpu) / calls.seconds, peak

    async def _settled(self, found: Victim, before: float, grown: float = 0.0) -> tuple[float, float]:
        """Seconds until memory was back, or -1; and what it then was, in MB."""
        start, grown = time.monotonic(), grown or self._size.grown
        while found.alive and time.monotonic() - start < SETTLE:
            if found.memory <= before * grown:
                return time.monotonic() - start, found.memory
            await asyncio.sleep(LOOK)
        return -1.0, found.memory

    def _row(
        self,
        name: str,
        found: Victim,
        calls: Calls,
        cpu: float,
        *,
        before: float,
        peak: float,
        settled: float,
        growth: int,
        told: dict[str, int],
    ) -> Row:
        after, alive, p99 = found.memory, found.alive, percentile(calls.took, 0.99)
        problems = []
        if not alive:
            problems.append("the daemon is dead")
        if calls.success < SUCCESS:
            problems.append(f"success {calls.success:.2%}")
        if settled < 0:
            problems.append(_not_back(after, before))
        if growth > MEGABYTE:
            problems.append(f"the database grew by {growth / MEGABYTE:.1f} MB")
        return Row(
            attack=name,
            seconds=round(calls.seconds, 1),
            calls=calls.made,
            success=calls.success,
            failed=dict(calls.failed),
            p50_ms=percentile(calls.took, 0.5),
            p99_ms=p99,
            new_p99_ms=percentile(calls.new, 0.99),
            cpu=cpu,
            memory_before=before,
            memory_peak=max(peak, before),
            memory_after=after,
            settled_s=settled,
            growth=growth,
            alive=alive,
            told=told,
            problems=tuple(problems),
            slow=(f"p99 {p99:.0f} ms",) if p99 >= P99 else (),
        )


def _of_memory(name: str, found: Victim, *, before: float, settled: float, peak: float = 0.0) -> Row:
    """Nothing but memory was looked at."""
    after = found.memory
    return Row(
        attack=name,
        seconds=0,
        calls=0,
        success=1,
        failed={},
        p50_ms=0,
        p99_ms=0,
        new_p99_ms=0,
        cpu=0,
        memory_before=before,
        memory_peak=max(peak, before, after),
        memory_after=after,
        settled_s=settled,
        growth=0,
        alive=found.alive,
        problems=(_not_back(after, before),) if settled < 0 else (),
    )


def _not_back(after: float, before: float) -> str:
    return f"memory {after:.0f} MB after {SETTLE:.0f} s, was {before:.0f}"


def _cpu(found: Victim) -> float:
    with contextlib.suppress(OSError, IndexError):
        return cpu_seconds(found.pid)
    return 0.0


async def _last_words(attacker: asyncio.subprocess.Process) -> dict[str, int]:
    """What it did. One that does not end by itself is ended, and says nothing."""
    if attacker.returncode is None:
        attacker.kill()
    out, _ = await attacker.communicate()
    told: dict[str, int] = json.loads(out) if out.strip() else {"said nothing": 1}
    return told
