"""The one way to reach a broker: mutual TLS, no proxy, no retries but our own."""

from __future__ import annotations

import grpc

from stepcred._settings import Settings

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.enable_retries", 0),  # neither transparent retries nor a policy from elsewhere: they would mint twice
    ("grpc.service_config_disable_resolution", 1),  # DNS must not decide how we retry
    ("grpc.enable_http_proxy", 0),  # HTTPS_PROXY is for the step's own traffic
    ("grpc.use_local_subchannel_pool", 1),  # a new connect() after a rotated certificate is a new connection
    ("grpc.initial_reconnect_backoff_ms", 100),  # below our own pauses, else they would meet a channel at rest
    ("grpc.max_reconnect_backoff_ms", 1000),
)


def channel_credentials(settings: Settings) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(settings.ca, settings.key, settings.cert)
