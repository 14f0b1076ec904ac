"""The daemon's settings: one TOML file < environment STEPCRED_BROKER_* < flags, validated entirely at start."""

from broker.config.approvals import Approvals
from broker.config.limits import Limits
from broker.config.load import load
from broker.config.notices import Alerts, AlertSink, Receiver, Webhooks
from broker.config.providers import AppRole, Aws, Vault
from broker.config.settings import (
    Config,
    Federated,
    Grace,
    Listen,
    Log,
    LogFormat,
    LogLevel,
    OnStop,
    Operators,
    Scopes,
    StaleCrl,
    StoreSettings,
    Timings,
    Tls,
)
from broker.config.tiers import TIER_DEFAULTS, Guard, TierOverride, part_of
from broker.config.values import Address

__all__ = [
    "TIER_DEFAULTS",
    "Address",
    "AlertSink",
    "Alerts",
    "AppRole",
    "Approvals",
    "Aws",
    "Config",
    "Federated",
    "Grace",
    "Guard",
    "Limits",
    "Listen",
    "Log",
    "LogFormat",
    "LogLevel",
    "OnStop",
    "Operators",
    "Receiver",
    "Scopes",
    "StaleCrl",
    "StoreSettings",
    "TierOverride",
    "Timings",
    "Tls",
    "Vault",
    "Webhooks",
    "load",
    "part_of",
]
