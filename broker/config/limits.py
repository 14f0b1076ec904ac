"""What keeps the front door open for the others: bounds on connections, calls and bytes.

Why each default is what it is, and what each flood costs, is in docs/front-door.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from broker.config.values import Count, Duration, Rate

LONGEST_HANDSHAKE = timedelta(seconds=5)  # for so long a stranger holds a place without a certificate
LEAST_CALLS = 16  # at once; with fewer there is nothing to share
LEAST_MESSAGE = 4096  # bytes; a heartbeat with the ids of a hundred leases has 2 kB
LEAST_METADATA = 1024  # bytes; gRPC's own headers have 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Of one listener, unless it says otherwise."""

    # Before a certificate has been seen.
    handshake_timeout: Duration = timedelta(seconds=5)
    max_connections: Count = 4096  # of all peers together
    reserved_files: Count = 256  # file descriptors that no connection may have

    # Of one connection.
    settings_timeout: Duration = timedelta(seconds=5)
    connection_idle: Duration = timedelta(minutes=5)
    connection_age: Duration = timedelta(minutes=30)
    connection_age_grace: Duration = timedelta(minutes=1)
    keepalive_interval: Duration = timedelta(minutes=1)
    keepalive_timeout: Duration = timedelta(seconds=20)
    max_streams: Count = 32

    # Of one call.
    max_message_bytes: Count = 16384
    max_metadata_bytes: Count = 8192

    # Of all calls, and of those of one agent.
    max_concurrent_rpcs: Count = 256
    max_agent_rpcs: Count = 48
    request_rate: Rate = 50.0  # per agent and second
    request_burst: Count = 100

    @property
    def room(self) -> int:
        """Places of the calls that ask; those that give back have as many of their own."""
        return self.max_concurrent_rpcs // 2


def check_limits(limits: Limits) -> Limits:
    """Raises ValueError, a line for each thing that does not fit together."""
    problems = []
    if limits.handshake_timeout > LONGEST_HANDSHAKE:
        problems.append("handshake_timeout must not be above 5s: so long a stranger holds a place")
    if limits.max_concurrent_rpcs < LEAST_CALLS:
        problems.append(f"max_concurrent_rpcs must be at least {LEAST_CALLS}")
    if limits.max_agent_rpcs > limits.room:
        problems.append(
            f"max_agent_rpcs must not be above half of max_concurrent_rpcs, {limits.room}: "
            "calls that ask, and calls that give back, have half of the places each"
        )
    if limits.keepalive_timeout > limits.keepalive_interval:
        problems.append("keepalive_timeout must not be above keepalive_interval")
    if limits.connection_idle > limits.connection_age:
        problems.append("connection_idle must not be above connection_age, or no connection is ever idle for so long")
    if limits.max_message_bytes < LEAST_MESSAGE:
        problems.append(f"max_message_bytes must be at least {LEAST_MESSAGE}, or honest requests are refused")
    if limits.max_metadata_bytes < LEAST_METADATA:
        problems.append(f"max_metadata_bytes must be at least {LEAST_METADATA}: gRPC's own headers need them")
    if problems:
        raise ValueError("\n".join(problems))
    return limits
