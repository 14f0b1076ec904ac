"""What happens to the step, and when; in seconds from its beginning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Story:
    """The times of one run. The step ends when it has used its second successor for a while."""

    ttl: float  # of a lease
    rotation: float  # a new certificate and key are in the step's files, the old ones are gone
    # Not within five seconds of a new successor: its first heartbeat is still to come, so the broker's next epoch takes it
    # back, and the step has to ask anew.
    killed: float  # the broker is killed, and started again
    cut: float  # nothing passes between step and broker any more …
    mended: float  # … until then
    end: float
    heartbeat: float
    silence_bound: float
    patience: float  # for the call that is made during the cut
    shortest: float  # life of a lease that the broker accepts; the product's own is 60

    @property
    def max_step(self) -> float:
        return self.end * 2


# Ten minutes, with a cut of twenty seconds; everything as the product has it.
LONG = Story(
    ttl=300,
    rotation=60,
    killed=90,
    cut=120,
    mended=140,
    end=600,
    heartbeat=10,
    silence_bound=45,
    patience=5,
    shortest=60,
)
# The same with shorter settings. The cut is longer than a heartbeat, and than a call's patience.
SHORT = Story(
    ttl=9,
    rotation=0.5,
    killed=1,
    cut=4,
    mended=6.5,
    end=16,
    heartbeat=1,
    silence_bound=12,
    patience=1,
    shortest=1,
)
