"""The front door's limits as gRPC knows them, and how many connections this process can hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from broker.config import Aws, Limits, Vault
from broker.errors import ConfigError
from broker.log import get_logger

log = get_logger(__name__)

LEAST_CONNECTIONS = 16  # with fewer a daemon only seems to serve
BACKLOG = 8  # calls that gRPC lets in for each one that is worked on; a refusal needs a place there too
WITHOUT_CALLS = 1  # a peer is asked whether it is there also while no call is open
# Pings are answered and not counted. gRPC closes a connection that sends more than it may when its last write is done, and
# until then it copies all it knows for each ping once more: four connections took both cores and honest calls 0.9 s, where
# answering takes 0.1 cores (measured). What is not read by the peer is bounded by gRPC: 10,000 answers.
UNCOUNTED = 0


def options(limits: Limits) -> list[tuple[str, int]]:
    """Channel arguments, each against a flood or a surprise that was measured (docs/front-door.md)."""
    return [
        ("grpc.so_reuseport", 0),  # a second server would silently share the port
        # Before a certificate has been seen.
        ("grpc.server_handshake_timeout_ms", _ms(limits.handshake_timeout)),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        # Of one connection.
        ("grpc.http2.settings_timeout", _ms(limits.settings_timeout)),
        ("grpc.max_connection_idle_ms", _ms(limits.connection_idle)),
        ("grpc.max_connection_age_ms", _ms(limits.connection_age)),
        ("grpc.max_connection_age_grace_ms", _ms(limits.connection_age_grace)),
        ("grpc.keepalive_time_ms", _ms(limits.keepalive_interval)),
        ("grpc.keepalive_timeout_ms", _ms(limits.keepalive_timeout)),
        ("grpc.keepalive_permit_without_calls", WITHOUT_CALLS),
        ("grpc.http2.max_ping_strikes", UNCOUNTED),
        ("grpc.max_concurrent_streams", limits.max_streams),  # an RST flood costs honest calls 1.6 s without it
        # Of one call.
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_metadata_size", limits.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),  # its default lets a quarter more in
    ]


def backlog(limits: Limits) -> int:
    """Calls in gRPC's hands at most. Beyond, it refuses without telling ours from others': a bound for memory alone."""
    return BACKLOG * limits.max_concurrent_rpcs


def reserve(limits: Limits, vault: Vault | None, aws: Aws | None) -> int:
    """File descriptors that connections of agents must leave: database, logs, maps, and what providers may open."""
    ours = limits.reserved_files
    if vault is not None:
        ours += 2 * vault.max_connections  # mints, and as many for everything else
    if aws is not None:
        ours += aws.mint_workers + aws.revoke_workers
    return ours


def within(limits: Limits, *, files: int, reserved: int) -> Limits:
    """With a connection cap that leaves the reserve when the process may open `files`; a lowered one is logged.

    Raises ConfigError when too few connections are left to serve anybody.
    """
    left = files - reserved
    if left >= limits.max_connections:
        return limits
    needed = limits.max_connections + reserved
    if left < LEAST_CONNECTIONS:
        problem = (
            f"limits.max_connections: this process may open {files} files, and {reserved} are reserved: "
            f"none is left for agents; allow it {needed} (LimitNOFILE= in systemd, ulimit -n in a shell)"
        )
        raise ConfigError([problem])
    log.warning(
        "fewer connections than configured: this process may not open enough files",
        max_connections=left,
        configured=limits.max_connections,
        files=files,
        reserved=reserved,
        remedy=f"LimitNOFILE={needed} in systemd, or ulimit -Hn {needed}, or a lower limits.max_connections",
    )
    return replace(limits, max_connections=left)


def _ms(span: timedelta) -> int:
    return int(span / timedelta(milliseconds=1))
