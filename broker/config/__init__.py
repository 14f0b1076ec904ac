"""The daemon's settings: one TOML file < environment STEPCRED_BROKER_* < flags, validated entirely at start."""

from broker.config.limits import Limits
from broker.config.load import load
from broker.config.settings import (
    AppRole,
    Aws,
    Config,
    Grace,
    Guard,
    Listen,
    Log,
    LogFormat,
    LogLevel,
    OnStop,
    Scopes,
    StoreSettings,
    TierOverride,
    Timings,
    Tls,
    Vault,
)
from broker.config.values import Address

__all__ = [
    "Address",
    "AppRole",
    "Aws",
    "Config",
    "Grace",
    "Guard",
    "Limits",
    "Listen",
    "Log",
    "LogFormat",
    "LogLevel",
    "OnStop",
    "Scopes",
    "StoreSettings",
    "TierOverride",
    "Timings",
    "Tls",
    "Vault",
    "load",
]
