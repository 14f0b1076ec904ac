"""What is measured, side against side, alternating in one run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.aws import ENDS
from tests.bench.curves import SIDES, load, time_to_dead
from tests.bench.figures import Curve, Measured, Parts, Ratio, Spread, Value, latency, tail, throughput
from tests.bench.load import Sample
from tests.bench.setup import World, rss_mb
from tests.bench.targets import AGENTS
from tests.support.proxy import Counting

MANY = 32  # calls in flight
CYCLES = 16  # whole steps at a time
ONE = 1
NEIGHBOURS = 4.0  # samples' time: they ask seldom, and a tail needs many
STS_CALLS = 8  # as many as the broker makes at once
PUT = "PutRolePolicy"
STEP_PARTS = ("begin", "issue", "end", "dead")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long."""

    rounds: int  # counted ones
    seconds: float = 1.0  # of one sample; all leases of one must be seen dead within the wait at its end
    warm_up: int = 1  # rounds before those that count
    drain: int = 10_000  # leases that are due at once
    issuing: float = 5.0  # seconds of issuing, before a drain and from its first moment on
    curve: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)  # calls in flight


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The comparisons, in the order of the table."""

    world: World
    plan: Plan

    def issue_vs_echo(self) -> list[Ratio]:
        """The broker's own cost, without a provider's, and with the Vault provider's."""
        what = "issue with a null provider / bare mTLS echo; bound by the daemon's CPU"
        through = (
            "issue through the Vault provider from an instant HTTP stub / bare mTLS echo; bound by the daemon's CPU"
        )
        many = self.alternate("null", "stub", "echo", concurrency=MANY)
        one = self.alternate("null", "stub", "echo", concurrency=ONE, share=0.4)
        return [
            throughput("issue_vs_echo", what, MANY, **_pair(many, "null", "echo", "issue")),
            latency("issue_vs_echo.p50", what, ONE, **_pair(one, "null", "echo", "issue")),
            throughput("issue_stub_vs_echo", through, MANY, **_pair(many, "stub", "echo", "issue")),
            latency("issue_stub_vs_echo.p50", through, ONE, **_pair(one, "stub", "echo", "issue")),
        ]

    def issue_vs_direct(self) -> list[Ratio]:
        """Issue of a token, against what a lean client gets from OpenBao itself."""
        found = self.alternate("vault", "create", "login_create", concurrency=MANY)
        one = self.alternate("vault", "create", concurrency=ONE, share=0.4)
        create, login = "issue / direct token create", "issue / direct cert login + token create"
        return [
            throughput("issue_vs_direct.create", create, MANY, **_pair(found, "vault", "create", "issue")),
            throughput("issue_vs_direct.login_create", login, MANY, **_pair(found, "vault", "login_create", "issue")),
            latency("issue_vs_direct.create.p50", create, ONE, **_pair(one, "vault", "create", "issue")),
        ]

    def cycle_vs_direct(self) -> list[Ratio]:
        """A whole step by the SDK, against what its author would write instead."""
        what = "connect, begin, issue, end with proof / hvac: login, create, revoke-self"
        many = self.alternate("cycle", "hvac_cycle", concurrency=CYCLES)
        one = self.alternate("cycle", "hvac_cycle", concurrency=ONE, share=0.6)
        return [
            throughput("cycle_vs_direct.throughput", what, CYCLES, **_pair(many, "cycle", "hvac_cycle", "cycle")),
            latency("cycle_vs_direct.p50", what, ONE, **_pair(one, "cycle", "hvac_cycle", "cycle")),
        ]

    def steps(self) -> list[Ratio | Parts | Curve]:
        """A step's life over a warm connection, and its end against a bare revoke and look-up."""
        what = "EndStep with proof / direct revoke-self + lookup"
        one = self.alternate("step", "kill", concurrency=ONE, share=0.6)
        many = self.alternate("step", "kill", concurrency=MANY)
        return [
            latency("time_to_dead", what, ONE, **_pair(one, "step", "kill", "end")),
            latency("time_to_dead.busy", what, MANY, **_pair(many, "step", "kill", "end")),
            _parts("step", ONE, one["step"]),
            _parts("step.busy", MANY, many["step"]),
            time_to_dead(one),
        ]

    def aws(self) -> list[Ratio | Parts | Value]:
        """A session of a role, against boto3 at the same server."""
        what = "issue of an STS session / boto3 AssumeRole"
        many = self.alternate("sts", "boto3", concurrency=STS_CALLS)
        one = self.alternate("sts", "boto3", concurrency=ONE, share=0.4)
        iam = self.world.aws.iam
        return [
            latency("sts_vs_boto3", what, ONE, **_pair(one, "sts", "boto3", "issue")),
            throughput("sts_vs_boto3.throughput", what, STS_CALLS, **_pair(many, "sts", "boto3", "issue")),
            *(self._ceph(iam) if iam else ()),
        ]

    def _ceph(self, iam: Counting) -> list[Ratio | Parts | Value]:
        """The same at a real STS, which is slower; and steps that end with a deny."""
        what = "the same at Ceph's STS"
        one = self.alternate("sts_ceph", "boto3_ceph", concurrency=ONE, share=0.4)
        before = iam.actions[PUT]
        denied = self.alternate("denied", concurrency=MANY)["denied"]
        puts = iam.actions[PUT] - before
        ends = sum(sample.ops for sample in denied) * (self.plan.rounds + self.plan.warm_up) / self.plan.rounds
        step = "a step at STS: begin, issue, end with its deny written"
        parts = tuple(Measured(side="denied", part=part, samples=denied).summary() for part in STEP_PARTS[:3])
        return [
            latency("sts_vs_boto3.ceph", what, ONE, **_pair(one, "sts_ceph", "boto3_ceph", "issue")),
            Parts(key="step.aws", what=step, concurrency=MANY, parts=parts),
            Value(
                key="aws_puts",
                what=f"PutRolePolicy calls for {ENDS} step ends",
                unit="calls",
                value=Spread.of([puts / ends * ENDS]),
                detail={"puts": puts, "ends": ends},
            ),
        ]

    def neighbours(self) -> list[Ratio]:
        """What one agent's runaway costs the others."""
        what = "issue of honest agents while another runs away / while none does"
        found = self.alternate("beset", "calm", concurrency=AGENTS, share=NEIGHBOURS)
        pair = _pair(found, "beset", "calm", "issue")
        return [
            latency("neighbours.p50", what, AGENTS, **pair),
            tail("neighbours.p99", what, AGENTS, **pair),
        ]

    def load(self) -> list[Curve]:
        """From one call in flight to many."""
        found = {
            at_once: self.alternate(*SIDES, concurrency=at_once, share=0.25, warm_up=0) for at_once in self.plan.curve
        }
        return [load(found)]

    def memory(self) -> list[Value]:
        """At the end, when every lease of the run is a terminal row."""
        pids = {"rss_mb": self.world.vault_pid, "rss_mb.null": self.world.null_pid}
        found = []
        for key, pid in pids.items():
            detail = {"idle": self.world.idle_mb[pid], "peak": rss_mb(pid, "VmHWM")}
            what = "the daemon's resident memory after this run"
            found.append(Value(key=key, what=what, unit="MB", value=Spread.of([rss_mb(pid)]), detail=detail))
        return found

    @property
    def numbers(self) -> range:
        """Of the rounds; those up to 0 warm up."""
        return range(1 - self.plan.warm_up, self.plan.rounds + 1)

    def named(self, number: int) -> str:
        return f"{number} of {self.plan.rounds}" if number > 0 else "before the first, to warm up"

    def alternate(
        self,
        *sides: str,
        concurrency: int,
        share: float = 1.0,
        warm_up: int | None = None,
        watch: Mapping[str, int] | None = None,
    ) -> dict[str, list[Sample]]:
        """Each side once per round, forwards and backwards in turn, so that a drift of the machine hits all alike."""
        found: dict[str, list[Sample]] = {side: [] for side in sides}
        for number in self.numbers if warm_up is None else range(1 - warm_up, self.plan.rounds + 1):
            say(f"{' / '.join(sides)}, {concurrency} in flight: round {self.named(number)}")
            for side in sides if number % 2 else reversed(sides):
                seconds = self.plan.seconds * share
                sample = self.world.load.sample(side, concurrency=concurrency, seconds=seconds, watch=watch)
                if number > 0:
                    found[side].append(sample)
        return found


def _pair(found: Mapping[str, Sequence[Sample]], ours: str, theirs: str, part: str) -> dict[str, Measured]:
    return {
        "ours": Measured(side=ours, part=part, samples=found[ours]),
        "theirs": Measured(side=theirs, part=part, samples=found[theirs]),
    }


def _parts(key: str, concurrency: int, samples: Sequence[Sample]) -> Parts:
    parts = tuple(Measured(side="step", part=part, samples=samples).summary() for part in STEP_PARTS)
    return Parts(key=key, what="a step at OpenBao: begin, issue, end with proof", concurrency=concurrency, parts=parts)


def say(text: str) -> None:
    """Progress."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
