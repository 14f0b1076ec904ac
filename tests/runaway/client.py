"""One of the runaway's processes: `python -m tests.runaway.client < order`; what came of it is printed as JSON.

It asks as fast as it can for one scope, over new connections with new certificates of one identity, under every name
that might pass for another one, in new attempts, again with old request ids, and, when told to, in new runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from stepcred.v1 import broker_pb2 as pb
from tests.e2e.wire import Wire, begin, channel_to, issue, new_id, refusal_of
from tests.support.certs import Creds

SCOPE, RUN, STEP = "danger", "r1", "load"
DELIVERED = "DELIVERED"
UNREACHABLE = "UNREACHABLE"  # the daemon is dead: no answer, and none counted

# No name, whatever it looks like: each must be refused, and none folded into the real one.
SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda name: f" {name}",
    lambda name: f"{name} ",
    lambda name: f"{name}\t",
    lambda name: f"{name}\n",
    lambda name: f"{name}\x00",
    lambda name: f"./{name}",
    lambda name: f"../{name}",
    lambda name: f"{name}/",
    lambda name: f".{name}",
    lambda name: "%" + f"{ord(name[0]):02x}" + name[1:],
    lambda name: f"{name}%00",
    lambda name: f"{name}\u200b",
    lambda name: f"\ufeff{name}",
    lambda name: f"{name}\u0301",
    lambda name: chr(ord(name[0]) + 0xFEE0) + name[1:],  # full width
    lambda name: "".join(chr(0x1D41A + ord(one) - ord("a")) if "a" <= one <= "z" else one for one in name) + "\u200d",
    lambda name: name + "x" * 300,
    lambda _: "",
)
# Names, but of nothing.
OTHER_SCOPES = ("Danger", "DANGER", "danger.", "danger:", "danger@", "danger-", "danger_", "danger=", "d4nger")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What one process has to do."""

    addr: str
    certificates: tuple[tuple[str, str, str], ...]  # certificate, key, CA; all of one identity
    requests: int  # answered ones
    threads: int
    per_connection: int
    seed: int
    handle_file: str  # what the processes share
    handle: str  # of a step that is neither ended nor opened again; empty: they open their own
    new_runs: bool  # each step in a run, or under a step's name, that nobody has used


@dataclass
class Done:
    """What came back."""

    outcomes: Counter[str] = field(default_factory=Counter)  # of honest spellings: DELIVERED, OPENED or a reason
    spelled: Counter[str] = field(default_factory=Counter)  # of the others


class Handle:
    """The newest attempt's, which all threads of all processes ask with at once."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def get(self) -> str:
        """Empty before the first."""
        try:
            return self._file.read_text()
        except FileNotFoundError:
            return ""

    def set(self, handle: str) -> None:
        """Whole or not at all."""
        part = self._file.with_suffix(f".{threading.get_native_id()}")
        part.write_text(handle)
        part.replace(self._file)

    @contextlib.contextmanager
    def replacing(self, old: str) -> Iterator[bool]:
        """True for the one who may open the next attempt: of many at once, each would end the others' at once."""
        with self._file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.get() == old


class Runaway:
    """One thread of it."""

    def __init__(self, order: Order, number: int, done: Done) -> None:
        self._order = order
        self._newest = Handle(Path(order.handle_file))
        self._handle = ""
        self._rng = random.Random(f"{order.seed}.{number}")
        self._done = done
        self._asked: list[tuple[str, str]] = []  # handles and request ids to send again
        self._names = itertools.count()
        self._prefix = f"{order.seed}.{number}"

    def run(self) -> None:
        left = self._order.requests // self._order.threads
        while left > 0:
            cert, key, ca = (Path(file) for file in self._rng.choice(self._order.certificates))
            with channel_to(self._order.addr, Creds(cert=cert, key=key, ca=ca)) as opened:
                wire = Wire(opened)
                for _ in range(min(left, self._order.per_connection)):
                    left -= self._once(wire)

    def _once(self, wire: Wire) -> int:
        """One request; 1 when it was answered."""
        dice, own = self._rng.random(), not self._order.handle
        self._handle = self._newest.get() if own else self._order.handle
        if not self._handle:
            outcome = self._again(wire)
        elif dice < 0.01 and own:
            outcome = self._begin(wire)
        elif dice < 0.15:
            outcome = self._spelled(wire)
        elif dice < 0.25 and self._asked:
            handle, request_id = self._rng.choice(self._asked)
            outcome = self._told(wire, "IssueCredential", issue(handle, SCOPE, request_id), self._done.outcomes)
        elif dice < 0.26 and own:
            request = pb.EndStepRequest(request_id=new_id(), step_handle=self._handle)
            outcome = self._told(wire, "EndStep", request, self._done.outcomes)
        else:
            outcome = self._issue(wire)
        if outcome == "STEP_ENDED" and own:
            self._again(wire)
        if outcome == UNREACHABLE:
            time.sleep(0.05)
            return 0
        return 1

    def _again(self, wire: Wire) -> str:
        """The next attempt, unless somebody has opened it meanwhile."""
        with self._newest.replacing(self._handle) as mine:
            return self._begin(wire) if mine else "OPENED"

    def _begin(self, wire: Wire) -> str:
        run, step = RUN, STEP
        if self._order.new_runs:
            fresh = f"{self._prefix}.{next(self._names)}"
            run, step = self._rng.choice(((fresh, STEP), (RUN.upper(), fresh), (fresh, STEP.upper())))
        request = begin(run, SCOPE, *self._rng.sample(OTHER_SCOPES, 3), step=step)
        return self._told(wire, "BeginStep", request, self._done.outcomes)

    def _issue(self, wire: Wire) -> str:
        request = issue(self._handle, SCOPE)
        self._asked = [*self._asked[-9:], (self._handle, request.request_id)]
        return self._told(wire, "IssueCredential", request, self._done.outcomes)

    def _spelled(self, wire: Wire) -> str:
        spell, what = self._rng.choice(SPELLINGS), self._rng.choice(("run", "step", "workflow", "scope", "other"))
        if what == "other":
            return self._told(
                wire, "IssueCredential", issue(self._handle, self._rng.choice(OTHER_SCOPES)), self._done.spelled
            )
        if what == "scope":
            return self._told(wire, "IssueCredential", issue(self._handle, spell(SCOPE)), self._done.spelled)
        names = {"run": RUN, "step": STEP, "workflow": "nightly"}
        names[what] = spell(names[what])
        request = begin(names["run"], SCOPE, workflow=names["workflow"], step=names["step"])
        return self._told(wire, "BeginStep", request, self._done.spelled)

    def _told(self, wire: Wire, method: str, request: Any, counted: Counter[str]) -> str:
        """DELIVERED or OPENED, or the reason of the refusal."""
        try:
            answer = wire.quick(method, request)
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            outcome = refusal.reason if "grpc-status-details-bin" in refusal.trailers else UNREACHABLE
        else:
            outcome = DELIVERED if method == "IssueCredential" else method
            if method == "BeginStep" and counted is self._done.outcomes:
                self._newest.set(answer.step_handle)
        counted[outcome] += 1
        return outcome


def main() -> None:
    asked = json.load(sys.stdin)
    order = Order(**{**asked, "certificates": tuple(tuple(one) for one in asked["certificates"])})
    # A count of its own for each thread: nothing has to be locked.
    counts = [Done() for _ in range(order.threads)]
    with ThreadPoolExecutor(order.threads) as pool:
        for future in [pool.submit(Runaway(order, number, done).run) for number, done in enumerate(counts)]:
            future.result()
    outcomes: Counter[str] = sum((done.outcomes for done in counts), Counter())
    spelled: Counter[str] = sum((done.spelled for done in counts), Counter())
    json.dump({"outcomes": outcomes, "spelled": spelled}, sys.stdout)


if __name__ == "__main__":
    main()
