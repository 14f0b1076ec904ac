"""The daemon's settings: one TOML file < environment STEPCRED_BROKER_* < flags, validated entirely at start."""

from broker.config.approvals import Approvals
from broker.config.limits import Limits
from broker.config.load import load
from broker.config.settings import (
    AppRole,
    Aws,
    Config,
    Federated,
    Grace,
    Guard,
    Listen,
    Log,
    LogFormat,
    LogLevel,
    OnStop,
    Operators,
    Scopes,
    StaleCrl,
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
    "Scopes",
    "StaleCrl",
    "StoreSettings",
    "TierOverride",
    "Timings",
    "Tls",
    "Vault",
    "load",
]
